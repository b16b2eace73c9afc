//! Signing in and out, enrolling, the first admin.

use bytes::Buf;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::Filter;
use warp::reply::Response;

use crate::auth::ticket::VALID;
use crate::protocol::account::{EnrollRequest, LoginRequest, SetupRequest};
use crate::protocol::live::Ticket;
use crate::sync::accounts::{self, LoggedIn};

use super::answer::Handled;
use super::caller::{self, Call, call};
use super::{Routes, Shared, answer, body, with};

/// `POST /auth/login`, `POST /auth/logout`, `POST /auth/ticket`, `POST /devices/enroll`, `POST /setup`.
pub(super) fn routes(app: &Shared) -> Routes {
    let login = warp::path!("api" / "v1" / "auth" / "login")
        .and(warp::post())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(post_login);
    let logout = warp::path!("api" / "v1" / "auth" / "logout").and(warp::post()).and(with(app)).and(call()).then(post_logout);
    let ticket = warp::path!("api" / "v1" / "auth" / "ticket").and(warp::post()).and(with(app)).and(call()).then(post_ticket);
    let enroll = warp::path!("api" / "v1" / "devices" / "enroll")
        .and(warp::post())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(post_enroll);
    let setup = warp::path!("api" / "v1" / "setup").and(warp::post()).and(with(app)).and(call()).and(warp::body::stream()).then(post_setup);
    login.or(logout).unify().or(ticket).unify().or(enroll).unify().or(setup).unify().map(answer::settle).boxed()
}

async fn post_login(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Handled {
    let request: LoginRequest = body::json(&headers, stream).await?;
    Ok(match accounts::login(&app, request, call.address()).await.map_err(answer::error)? {
        LoggedIn::Device(enrolled) => answer::json(&enrolled),
        LoggedIn::Browser(secret) => signed_in(&app, &headers, &secret, 30 * 86_400),
    })
}

/// 204 with the session cookie. `Secure` is added where a browser says that it came by HTTPS.
fn signed_in(app: &Shared, headers: &HeaderMap, secret: &str, seconds: u64) -> Response {
    let https = headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    let name = caller::cookie_name(app);
    let cookie = format!("{name}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{}", if https { "; Secure" } else { "" });
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(value) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

async fn post_logout(app: Shared, call: Call, headers: HeaderMap) -> Handled {
    caller::anyone(&app, &call, &headers)?;
    if let Some(secret) = caller::cookie(&app, &headers) {
        app.sessions.end(&secret);
        app.hub.review();
    }
    Ok(signed_in(&app, &headers, "", 0))
}

async fn post_ticket(app: Shared, call: Call, headers: HeaderMap) -> Handled {
    caller::anyone(&app, &call, &headers)?;
    match caller::key(&app, &headers).and_then(|key| app.tickets.give(key)) {
        Some(ticket) => Ok(answer::json(&Ticket { ticket, expires_in: VALID.as_secs() })),
        None => Err(answer::error(crate::sync::Error::Store(crate::store::Error::Closed))),
    }
}

async fn post_enroll(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Handled {
    let request = body::json::<EnrollRequest, _, _>(&headers, stream).await?;
    Ok(answer::value(accounts::enroll(&app, request, call.address()).await))
}

async fn post_setup(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Handled {
    let request = body::json::<SetupRequest, _, _>(&headers, stream).await?;
    let made = accounts::setup(&app, request, call.address()).await;
    Ok(answer::value(made.map(|user| serde_json::json!({ "user": user, "role": "admin" }))))
}
