//! Signing in, enrolling a device, the first admin.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::json;

use crate::auth::{password, token};
use crate::domain::actor::Role;
use crate::domain::clock::Micros;
use crate::domain::ids::{DeviceId, UserId};
use crate::domain::limits;
use crate::protocol::account::{EnrollRequest, Enrolled, LoginRequest, NewDevice, SetupRequest};
use crate::protocol::problem::Code;
use crate::sqlite::writer::Outcome;
use crate::store::accounts::User;
use crate::store::devices::{self, Enrolment};
use crate::store::{audit, meta, users};

use super::{App, Error, Result, problem};

/// How long an invitation is valid.
pub const INVITATION: Micros = 24 * 3_600 * 1_000_000;

/// What a login came to.
#[derive(Debug)]
pub enum LoggedIn {
    /// A token for a device.
    Device(Enrolled),
    /// A secret for a browser's cookie.
    Browser(String),
}

fn throttled(wait: Duration) -> Error {
    Error::Problem(Code::RateLimited, format!("Too many failed attempts. Try again in {} s.", wait.as_secs() + 1))
}

/// One of the two places for password hashes.
async fn place(app: &App) -> Result<tokio::sync::SemaphorePermit<'_>> {
    app.hashing.acquire().await.map_err(|_| Error::Store(crate::store::Error::Closed))
}

/// Hashes or verifies off the async threads.
async fn hashing<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Store(crate::store::Error::Panicked))
}

fn wrong<T>() -> Result<T> {
    problem(Code::BadCredentials, "The name or the password is wrong.")
}

/// Checks a name and a password.
async fn authenticate(app: &App, name: &str, typed: String, address: IpAddr) -> Result<User> {
    app.throttle.admit(address, Some(name)).map_err(throttled)?;
    let _place = place(app).await?;
    // A thousand guesses may have waited together: what failed meanwhile counts.
    app.throttle.admit(address, Some(name)).map_err(throttled)?;
    let bounded = name.len() <= limits::ID_CHARS && typed.len() <= 4 * limits::PASSWORD_CHARS;
    let wanted = name.to_owned();
    let stored = app.store.readers.run(move |db| Ok(users::with_password(db, &wanted)?)).await?;
    let (user, hash) = stored.filter(|(user, _)| user.enabled).unzip();
    let hash: Option<String> = hash.flatten();
    let old = hash.clone().filter(|hash| password::is_outdated(hash));
    let outdated = old.is_some();
    let (fits, renewed) = hashing(move || {
        let fits = bounded && password::verify(&typed, hash.as_deref());
        (fits, if fits && outdated { password::hash(&typed) } else { None })
    })
    .await?;
    let Some(user) = user.filter(|_| fits) else {
        app.throttle.failed(address, Some(name));
        return wrong();
    };
    app.throttle.succeeded(address, name);
    if let Some((old, new)) = old.zip(renewed) {
        let no = user.no;
        let _ = app.store.writer.run(move |db, _| Ok(Outcome::Keep(users::renew_hash(db, no, &old, &new)?))).await;
    }
    Ok(user)
}

/// Signs a device or a browser in.
pub async fn login(app: &App, request: LoginRequest, address: IpAddr) -> Result<LoggedIn> {
    let LoginRequest { username, password, device } = request;
    let user = authenticate(app, &username, password, address).await?;
    match device {
        Some(device) => {
            // Between the password and now the user may have been disabled, or given another password.
            let still = move |db: &rusqlite::Connection, _| {
                Ok(users::find(db, user.name.as_str())?.filter(|now| now.enabled && now.access == user.access))
            };
            match enrol(app, still, device, "login").await? {
                Some(enrolled) => Ok(LoggedIn::Device(enrolled)),
                None => wrong(),
            }
        }
        None => {
            let secret = app.sessions.begin(&user.name, user.access).ok_or(Error::Store(crate::store::Error::Closed))?;
            let name = user.name.to_string();
            // A full disk must not keep an admin out: the entry in the log is not worth that.
            let logged = app.store.writer.run(move |db, ledger| {
                audit::write(db, ledger.now(), &name, "login", "browser", &json!({}))?;
                Ok(Outcome::Keep(()))
            });
            if let Err(error) = logged.await {
                tracing::warn!(error = %error, "a login could not be written to the audit log");
            }
            Ok(LoggedIn::Browser(secret))
        }
    }
}

/// Enrols a device by a one-time code.
pub async fn enroll(app: &App, request: EnrollRequest, address: IpAddr) -> Result<Enrolled> {
    app.throttle.admit(address, None).map_err(throttled)?;
    let EnrollRequest { code, device_id, name, platform, app_version } = request;
    let device = NewDevice { id: device_id, name, platform, app_version };
    let code = token::hash(&token::normal_code(&code));
    let invited = move |db: &rusqlite::Connection, now| {
        let user = devices::accept(db, &code, now)?;
        Ok(users::all(db)?.into_iter().find(|one| Some(one.no) == user && one.enabled))
    };
    match enrol(app, invited, device, "enroll").await? {
        Some(enrolled) => Ok(enrolled),
        None => {
            app.throttle.failed(address, None);
            problem(Code::InvalidCode, "The code is unknown, was used, or has expired. Ask for a new one.")
        }
    }
}

fn check_device(device: &NewDevice) -> Result<()> {
    if let Some(id) = &device.id
        && let Err(e) = DeviceId::parse(id)
    {
        return problem(Code::InvalidRequest, format!("{e}."));
    }
    for text in [&device.name, &device.platform, &device.app_version].into_iter().flatten() {
        if text.chars().count() > limits::LABEL_CHARS {
            return problem(Code::InvalidRequest, format!("Names and versions have at most {} characters.", limits::LABEL_CHARS));
        }
    }
    Ok(())
}

/// Gives a device its token, in one transaction with the question whose it is: a code is used up only by a device that
/// enrols. `None`: nobody's.
async fn enrol<W>(app: &App, whose: W, device: NewDevice, how: &'static str) -> Result<Option<Enrolled>>
where
    W: FnOnce(&rusqlite::Connection, Micros) -> crate::store::Result<Option<User>> + Send + 'static,
{
    check_device(&device)?;
    let secret = token::device_token().ok_or(Error::Store(crate::store::Error::Closed))?;
    let id = device.id.unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let name = device.name.filter(|name| !name.trim().is_empty()).unwrap_or_else(|| id.clone());
    app.store
        .writer
        .run(move |db, ledger| {
            let Some(user) = whose(db, ledger.now())? else { return Ok(Outcome::Undo(Ok(None))) };
            let enrolment = Enrolment {
                id: &id,
                user: user.no,
                name: name.trim(),
                platform: device.platform.as_deref().unwrap_or_default(),
                app_version: device.app_version.as_deref().unwrap_or_default(),
                token: token::hash(&secret),
            };
            if !devices::enrol(db, &enrolment, ledger.now())? {
                return Ok(Outcome::Undo(problem(Code::DeviceMismatch, "This device id belongs to another user.")));
            }
            audit::write(db, ledger.now(), user.name.as_str(), how, &id, &json!({ "name": name }))?;
            ledger.accounts_changed();
            let (user, role, stores) =
                (user.name.to_string(), user.role.word().into(), user.stores.iter().map(ToString::to_string).collect());
            Ok(Outcome::Keep(Ok(Some(Enrolled { device_id: id, token: secret, user, role, stores }))))
        })
        .await?
}

/// Makes the first admin, by the code of the set-up link.
pub async fn setup(app: &App, request: SetupRequest, address: IpAddr) -> Result<UserId> {
    app.throttle.admit(address, None).map_err(throttled)?;
    let name = match UserId::parse(&request.username) {
        Ok(name) => name,
        Err(e) => return problem(Code::InvalidRequest, format!("{e}.")),
    };
    if let Err(sentence) = password::check(&request.password) {
        return problem(Code::InvalidRequest, sentence);
    }
    let code = token::hash(&token::normal_code(&request.code)).to_vec();
    let wanted = code.clone();
    // Looked at first, so that strangers cost no password hash.
    let valid = app.store.readers.run(move |db| Ok(setup_code(db)?.is_some_and(|(stored, _)| same(&stored, &wanted)))).await?;
    if !valid {
        app.throttle.failed(address, None);
        return problem(Code::InvalidCode, "The set-up link is not valid any more. Restart the appliance for a new one.");
    }
    let typed = request.password;
    let _place = place(app).await?;
    let hash = hashing(move || password::hash(&typed)).await?.ok_or(Error::Store(crate::store::Error::Closed))?;
    let admin = name.clone();
    let made = app
        .store
        .writer
        .run(move |db, ledger| {
            let now = ledger.now();
            let valid = setup_code(db)?.is_some_and(|(stored, ends)| same(&stored, &code) && ends > now) && users::all(db)?.is_empty();
            if !valid {
                return Ok(Outcome::Undo(false));
            }
            users::add(db, &admin, Role::Admin, &[], Some(&hash), now)?;
            meta::remove(db, meta::SETUP)?;
            audit::write(db, now, admin.as_str(), "setup", admin.as_str(), &json!({ "role": "admin" }))?;
            ledger.accounts_changed();
            Ok(Outcome::Keep(true))
        })
        .await?;
    let _ = std::fs::remove_file(app.setup_link());
    if made { Ok(name) } else { problem(Code::InvalidCode, "The set-up link is not valid any more. Restart the appliance for a new one.") }
}

fn setup_code(db: &rusqlite::Connection) -> crate::store::Result<Option<(Vec<u8>, Micros)>> {
    let code: Option<Vec<u8>> = meta::read(db, meta::SETUP)?;
    Ok(code.zip(meta::read(db, meta::SETUP_ENDS)?))
}

fn same(a: &[u8], b: &[u8]) -> bool {
    use subtle::ConstantTimeEq;
    a.ct_eq(b).into()
}
