//! Push, pull, delta, verify, status and cleanup.

use bytes::Buf;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::Filter;
use warp::reply::Response;

use crate::protocol::account::CleanupRequest;
use crate::protocol::problem::{Code, Problem};
use crate::sync::{delta, figures, pull, push, retention, status, verify};

use super::answer::Handled;
use super::caller::{self, Call, call};
use super::{Routes, Shared, answer, body, with};

/// `POST /sync/push`, `POST /sync/pull`, `POST /sync/delta`, `POST /sync/verify`, `GET /sync/status`, `POST /sync/cleanup`.
pub(super) fn routes(app: &Shared) -> Routes {
    let push =
        warp::path!("api" / "v1" / "sync" / "push").and(warp::post()).and(with(app)).and(call()).and(warp::body::stream()).then(post_push);
    let pull =
        warp::path!("api" / "v1" / "sync" / "pull").and(warp::post()).and(with(app)).and(call()).and(warp::body::stream()).then(post_pull);
    let delta = warp::path!("api" / "v1" / "sync" / "delta")
        .and(warp::post())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(post_delta);
    let verify = warp::path!("api" / "v1" / "sync" / "verify")
        .and(warp::post())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(post_verify);
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let status = warp::path!("api" / "v1" / "sync" / "status").and(warp::get()).and(with(app)).and(call()).and(query).then(get_status);
    let cleanup = warp::path!("api" / "v1" / "sync" / "cleanup")
        .and(warp::post())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(post_cleanup);
    pull.or(push).unify().or(delta).unify().or(verify).unify().or(status).unify().or(cleanup).unify().map(answer::settle).boxed()
}

/// Counts a sync that was refused on its way, unless nobody known asked for it.
fn refused(app: &Shared) -> impl FnOnce(Response) -> Response {
    |refusal| {
        if refusal.status() != StatusCode::UNAUTHORIZED {
            figures::refused(app);
        }
        refusal
    }
}

async fn post_push(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Handled {
    let device = caller::device(&app, &call, &headers).map_err(refused(&app))?;
    let body = body::read(&headers, stream, app.limits.body_bytes).await.map_err(refused(&app))?;
    let pushed = push::push(&app, &device, body, &call.id).await.map_err(answer::error)?;
    if !pushed.refused {
        return Ok(answer::json_text(StatusCode::OK, pushed.body));
    }
    let mut response = answer::json_text(StatusCode::CONFLICT, pushed.body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    Ok(response)
}

async fn post_pull(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Handled {
    let device = caller::device(&app, &call, &headers).map_err(refused(&app))?;
    let body = body::read(&headers, stream, app.limits.body_bytes).await.map_err(refused(&app))?;
    Ok(answer::text(pull::pull(&app, &device, body).await))
}

async fn post_delta(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    let body = body::read(&headers, stream, app.limits.body_bytes).await?;
    Ok(answer::text(delta::delta(&app, &actor, body).await))
}

async fn post_verify(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Handled {
    let device = caller::device(&app, &call, &headers)?;
    let body = body::read(&headers, stream, app.limits.body_bytes).await?;
    Ok(answer::text(verify::verify(&app, &device, body).await))
}

async fn get_status(app: Shared, call: Call, headers: HeaderMap, query: String) -> Handled {
    let only = super::devices::parameter(&query, "device_id");
    let actor = caller::anyone(&app, &call, &headers)?;
    Ok(answer::value(status::status(&app, &actor, only.as_deref()).await))
}

async fn post_cleanup(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Handled {
    let actor = caller::admin(&app, &call, &headers)?;
    let request: CleanupRequest = body::json(&headers, stream).await?;
    if !(0..=36_500).contains(&request.days_old) {
        return Err(answer::problem(Problem::new(Code::InvalidRequest, "days_old is a number of days from 0 to 36500.")));
    }
    let removed = retention::cleanup(&app, request.days_old, Some(actor.user.as_str())).await;
    Ok(answer::value(removed.map(|removed| serde_json::json!({ "success": true, "removed": removed }))))
}
