//! The conflict inbox: what a person is shown of a conflict, and how a person decides it.
//!
//! Contents are passed on as the text that they are stored as, so no number is rounded on the way.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A conflict. In lists, contents and what follows from them are left out.
#[derive(Debug, Serialize)]
pub struct Conflict<'a> {
    /// Its id.
    pub conflict_id: &'a str,
    /// The operation, as the client named it, or its derived identity.
    pub op_id: Cow<'a, str>,
    /// The record's table.
    pub table: &'a str,
    /// The record.
    pub record_id: &'a str,
    /// The rule that was asked.
    pub rule: &'a str,
    /// Why there is a conflict.
    pub reason: &'a str,
    /// More about why.
    pub detail: Option<&'a str>,
    /// `client`, `server`, `merged` or `none`.
    pub winner: &'a str,
    /// Paths in conflict.
    pub fields: &'a [String],
    /// Who won each of them.
    pub winners: &'a [String],
    /// `open` or `resolved`.
    pub status: &'a str,
    /// What to do, where nobody knows better.
    pub suggested_resolution: &'a str,
    /// Why.
    pub suggested_because: Option<&'a str>,
    /// The record that `use_merged` is suggested with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggested_data: Option<Option<&'a RawValue>>,
    /// When it was recorded.
    pub created_at: String,
    /// The change.
    pub client: Side<'a>,
    /// What the server had; `None`: nothing.
    pub server: Option<Side<'a>>,
    /// What the edit began from, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<Option<&'a RawValue>>,
    /// The record's version after the decision.
    pub version: Option<i64>,
    /// The record as it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<Option<Current<'a>>>,
    /// Path by path, what differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub differences: Option<Vec<Difference<'a>>>,
    /// What a person made of it.
    pub resolved: Option<Resolved<'a>>,
}

/// One side of a conflict.
#[derive(Debug, Serialize)]
pub struct Side<'a> {
    /// Who, by name.
    pub user: Option<&'a str>,
    /// The role then.
    pub role: Option<&'a str>,
    /// On which device.
    pub device_id: Option<&'a str>,
    /// That device's name.
    pub device_name: Option<&'a str>,
    /// The edit, by the device's clock.
    pub updated_at: String,
    /// The edit, corrected.
    pub edited_at: Option<String>,
    /// It is, or asks for, a tombstone.
    pub deleted: bool,
    /// The content; null where deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Option<&'a RawValue>>,
    /// The server's version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<i64>,
    /// The server's record, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub record_id: Option<&'a str>,
}

/// A record as it is now.
#[derive(Debug, Serialize)]
pub struct Current<'a> {
    /// Its version.
    pub version: i64,
    /// It is a tombstone.
    pub deleted: bool,
    /// Its content; null where deleted.
    pub data: Option<&'a RawValue>,
}

/// What differs at a path. A side that has nothing there leaves its value out.
#[derive(Debug, Serialize)]
pub struct Difference<'a> {
    /// The path.
    pub field: &'a str,
    /// The value that the edit began from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base: Option<&'a RawValue>,
    /// The change's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<&'a RawValue>,
    /// The server's value.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<&'a RawValue>,
    /// `client`, `server` or `both`.
    pub changed_by: &'static str,
    /// Who won it; `None` where it is not in conflict.
    pub winner: Option<&'a str>,
}

/// What a person made of a conflict.
#[derive(Debug, Serialize)]
pub struct Resolved<'a> {
    /// `use_server`, `use_client` or `use_merged`.
    pub resolution: &'a str,
    /// Who, by name.
    pub by: &'a str,
    /// When.
    pub at: String,
    /// The record's version after it.
    pub version: Option<i64>,
    /// It took an earlier decision back.
    pub reverted: bool,
}

/// A page of the inbox.
#[derive(Debug, Serialize)]
pub struct Conflicts<'a> {
    /// Newest first.
    pub conflicts: Vec<Conflict<'a>>,
    /// What to ask for next.
    pub next: Option<&'a str>,
}

/// `POST /sync/conflicts/{id}/resolve`.
#[derive(Debug, Deserialize)]
pub struct ResolveRequest<'a> {
    /// `use_server`, `use_client` or `use_merged`.
    pub resolution: String,
    /// The whole record, for `use_merged`.
    #[serde(borrow)]
    pub merged_data: Option<&'a RawValue>,
    /// The record's version that the person saw.
    pub version: Option<i64>,
    /// Take back what a person decided.
    pub revert: Option<bool>,
}

/// The answer to it.
#[derive(Debug, Serialize)]
pub struct ResolveAnswer<'a> {
    /// Always true.
    pub success: bool,
    /// The conflict as it is now.
    pub conflict: Conflict<'a>,
    /// The record's version now.
    pub version: Option<i64>,
}

/// `POST /records/{table}/{id}/history/{version}/restore`.
#[derive(Debug, Deserialize)]
pub struct RestoreRequest {
    /// The record's version that the person saw.
    pub version: Option<i64>,
}
