//! Who calls: a device by its token, a person by a session. Deny by default.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::{HeaderMap, header};
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::auth::ticket::Key;
use crate::auth::token;
use crate::domain::actor::Actor;
use crate::protocol::problem::{Code, Problem};
use crate::store::accounts::Device;

use super::{Shared, answer};

/// What is known of a request before anybody looks into it.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// The other end of the connection.
    pub(super) peer: SocketAddr,
    /// Names the request in answers and in the log.
    pub(super) id: Arc<str>,
    /// Set once the connection has shown that it belongs to somebody known.
    pub(super) known: Arc<AtomicBool>,
}

impl Call {
    /// The caller's address, for throttles.
    pub(super) fn address(&self) -> IpAddr {
        self.peer.ip()
    }
}

/// Extracts the call and its headers.
pub(super) fn call() -> impl Filter<Extract = (Call, HeaderMap), Error = Rejection> + Copy {
    warp::ext::get::<Call>().and(warp::header::headers_cloned())
}

fn refuse<T>(code: Code, detail: &str) -> Result<T, Response> {
    Err(answer::problem(Problem::new(code, detail)))
}

/// What the request shows for itself: `Authorization: Bearer …`.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Name of the session cookie. Ports share cookies, so two appliances on one machine need two names.
pub(super) fn cookie_name(app: &Shared) -> String {
    let epoch = app.store.live.read().epoch.0;
    format!("backroom_{:08x}", (epoch >> 32) as u32)
}

/// The secret in the session cookie.
pub(super) fn cookie(app: &Shared, headers: &HeaderMap) -> Option<String> {
    let name = cookie_name(app);
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|text| text.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.to_owned())
    })
}

/// The device whose token the request carries; its rate is limited here.
pub(super) fn device(app: &Shared, call: &Call, headers: &HeaderMap) -> Result<Arc<Device>, Response> {
    let Some(secret) = bearer(headers) else {
        return refuse(Code::Unauthorized, "Send the device's token: Authorization: Bearer bkr_dev_…");
    };
    let directory = app.store.accounts.now();
    let Some(device) = directory.device_by_token(&token::hash(secret)) else {
        return refuse(Code::Unauthorized, "Nobody holds this token.");
    };
    if device.revoked {
        return refuse(Code::DeviceRevoked, "This device was revoked, or its user was disabled. Ask for a new invitation.");
    }
    call.known.store(true, Ordering::Relaxed);
    let named = headers.get("x-device-id").map(|value| value.to_str().unwrap_or_default());
    if let Some(named) = named
        && device.actor.device.as_ref().map(|id| id.as_str()) != Some(named)
    {
        return refuse(Code::DeviceMismatch, "X-Device-ID names another device than the token's.");
    }
    if let Err(wait) = device.activity.limiter.check() {
        let wait = wait.wait_time_from(governor::clock::Clock::now(&governor::clock::DefaultClock::default()));
        return Err(answer::wait(Code::RateLimited, "This device sends more requests than its rate allows.", wait));
    }
    Ok(device.clone())
}

/// A device or a signed-in person.
pub(super) fn anyone(app: &Shared, call: &Call, headers: &HeaderMap) -> Result<Actor, Response> {
    if bearer(headers).is_some() {
        return device(app, call, headers).map(|device| device.actor.clone());
    }
    let session = cookie(app, headers).and_then(|secret| app.sessions.user(&secret));
    let directory = app.store.accounts.now();
    let user = session.and_then(|(name, access)| directory.user(&name).cloned().filter(|user| user.enabled && user.access == access));
    match user {
        Some(user) => {
            call.known.store(true, Ordering::Relaxed);
            Ok(Actor { device: None, user: user.name.clone(), role: user.role, stores: user.stores.clone() })
        }
        None => refuse(Code::Unauthorized, "Sign in, or send a device's token: Authorization: Bearer bkr_dev_…"),
    }
}

/// By what a caller is known, for connections that last: the hash of a token, or of a session's secret. Who that is, is
/// asked for apart.
pub(super) fn key(app: &Shared, headers: &HeaderMap) -> Option<Key> {
    match bearer(headers) {
        Some(token) => Some(Key::Device(token::hash(token))),
        None => cookie(app, headers).map(|secret| Key::Session(token::hash(&secret))),
    }
}

/// An admin.
pub(super) fn admin(app: &Shared, call: &Call, headers: &HeaderMap) -> Result<Actor, Response> {
    let actor = anyone(app, call, headers)?;
    match actor.role {
        crate::domain::actor::Role::Admin => Ok(actor),
        _ => refuse(Code::Forbidden, "Only an admin may do this."),
    }
}
