//! Signing in, enrolling, and devices.

use serde::{Deserialize, Serialize};

/// `POST /auth/login`.
#[derive(Debug, Deserialize)]
pub struct LoginRequest {
    /// The user's name.
    pub username: String,
    /// The password.
    pub password: String,
    /// With a device: a token for it. Without: a session cookie.
    pub device: Option<NewDevice>,
}

/// What a device says of itself when it enrols.
#[derive(Debug, Default, Deserialize)]
pub struct NewDevice {
    /// A proposed id; the same user and id gets a new token.
    pub id: Option<String>,
    /// The name that people see.
    pub name: Option<String>,
    /// What it runs on.
    pub platform: Option<String>,
    /// The app's version.
    pub app_version: Option<String>,
}

/// `POST /devices/enroll`.
#[derive(Debug, Deserialize)]
pub struct EnrollRequest {
    /// The one-time code.
    pub code: String,
    /// A proposed id.
    #[serde(alias = "id")]
    pub device_id: Option<String>,
    /// The name that people see.
    pub name: Option<String>,
    /// What it runs on.
    pub platform: Option<String>,
    /// The app's version.
    pub app_version: Option<String>,
}

/// The answer to both: the token is shown this once.
#[derive(Debug, Serialize)]
pub struct Enrolled {
    /// The device's id.
    pub device_id: String,
    /// The secret for `Authorization: Bearer`.
    pub token: String,
    /// The user's name, which is also the value of user scopes.
    pub user: String,
    /// The user's role.
    pub role: String,
    /// The user's stores.
    pub stores: Vec<String>,
}

/// `PATCH /sync/devices/{id}`.
#[derive(Debug, Deserialize)]
pub struct RenameRequest {
    /// The new name.
    pub name: String,
}

/// `POST /sync/cleanup`.
#[derive(Debug, Deserialize)]
pub struct CleanupRequest {
    /// Remove what is older than so many days.
    pub days_old: i64,
}

/// `POST /setup`.
#[derive(Debug, Deserialize)]
pub struct SetupRequest {
    /// The code of the set-up link.
    pub code: String,
    /// Name of the first admin.
    pub username: String,
    /// The password.
    pub password: String,
}
