//! Push, pull, status and cleanup.

use bytes::Buf;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use warp::Filter;
use warp::reply::Response;

use crate::protocol::account::CleanupRequest;
use crate::sync::{pull, push, retention, status};

use super::caller::{self, Call, call};
use super::{Routes, Shared, answer, body, with};

/// `POST /sync/push`, `POST /sync/pull`, `GET /sync/status`, `POST /sync/cleanup`.
pub(super) fn routes(app: &Shared) -> Routes {
    let push =
        warp::path!("api" / "v1" / "sync" / "push").and(warp::post()).and(with(app)).and(call()).and(warp::body::stream()).then(post_push);
    let pull =
        warp::path!("api" / "v1" / "sync" / "pull").and(warp::post()).and(with(app)).and(call()).and(warp::body::stream()).then(post_pull);
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let status = warp::path!("api" / "v1" / "sync" / "status").and(warp::get()).and(with(app)).and(call()).and(query).then(get_status);
    let cleanup = warp::path!("api" / "v1" / "sync" / "cleanup")
        .and(warp::post())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(post_cleanup);
    pull.or(push).unify().or(status).unify().or(cleanup).unify().boxed()
}

async fn post_push(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Response {
    let device = match caller::device(&app, &call, &headers) {
        Ok(device) => device,
        Err(response) => return response,
    };
    let body = match body::read(&headers, stream, app.limits.body_bytes).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    match push::push(&app, &device, body, &call.id).await {
        Ok(pushed) if pushed.refused => {
            let mut response = answer::json_text(StatusCode::CONFLICT, pushed.body);
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
            response
        }
        Ok(pushed) => answer::json_text(StatusCode::OK, pushed.body),
        Err(error) => answer::error(error),
    }
}

async fn post_pull(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Response {
    let device = match caller::device(&app, &call, &headers) {
        Ok(device) => device,
        Err(response) => return response,
    };
    match body::read(&headers, stream, app.limits.body_bytes).await {
        Ok(body) => answer::text(pull::pull(&app, &device, body).await),
        Err(response) => response,
    }
}

async fn get_status(app: Shared, call: Call, headers: HeaderMap, query: String) -> Response {
    let only = super::devices::parameter(&query, "device_id");
    match caller::anyone(&app, &call, &headers) {
        Ok(actor) => answer::value(status::status(&app, &actor, only.as_deref()).await),
        Err(response) => response,
    }
}

async fn post_cleanup(app: Shared, call: Call, headers: HeaderMap, stream: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Response {
    let actor = match caller::admin(&app, &call, &headers) {
        Ok(actor) => actor,
        Err(response) => return response,
    };
    let request: CleanupRequest = match body::json(&headers, stream).await {
        Ok(request) => request,
        Err(response) => return response,
    };
    if !(0..=36_500).contains(&request.days_old) {
        return answer::error(crate::sync::Error::Problem(
            crate::protocol::problem::Code::InvalidRequest,
            "days_old is a number of days from 0 to 36500.".into(),
        ));
    }
    let removed = retention::cleanup(&app, request.days_old, Some(actor.user.as_str())).await;
    answer::value(removed.map(|removed| serde_json::json!({ "success": true, "removed": removed })))
}
