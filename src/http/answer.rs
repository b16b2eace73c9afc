//! Answers: bodies, problems, and how errors of the layers below become statuses.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use warp::reply::Response;

use crate::protocol::problem::{Code, Problem};
use crate::{store, sync};

/// Set on an answer after which the connection closes, since the rest of its request was not read.
#[derive(Debug, Clone, Copy)]
pub(super) struct CloseAfter;

/// A handler's answer, or the one that it was refused with on the way.
pub(super) type Handled = Result<Response, Response>;

/// Both are answers.
pub(super) fn settle(handled: Handled) -> Response {
    handled.unwrap_or_else(|refusal| refusal)
}

/// A JSON body that is text already.
pub(super) fn json_text(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = Response::new(body.into().into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A JSON body.
pub(super) fn json(body: &impl Serialize) -> Response {
    json_text(StatusCode::OK, serde_json::to_vec(body).unwrap_or_default())
}

/// A problem. Its body is written on the way out, where the request's id is known.
pub(super) fn problem(problem: Problem) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let wait = match problem.code {
        "paused" => Some(30),
        "unavailable" | "rate_limited" => Some(1),
        "storage_full" => Some(60),
        _ => None,
    };
    if let Some(seconds) = wait {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.status == 401 {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response.extensions_mut().insert(problem);
    response
}

/// A problem with the time to wait before another try.
pub(super) fn wait(code: Code, detail: &str, wait: Duration) -> Response {
    let mut response = problem(Problem::new(code, detail));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    response
}

/// An error of a use case.
pub(super) fn error(error: sync::Error) -> Response {
    problem(told(error))
}

/// What the caller is told of an error.
pub(super) fn told(error: sync::Error) -> Problem {
    let (code, detail) = match error {
        sync::Error::Problem(code, detail) => (code, detail),
        sync::Error::Changed(detail, version) => {
            return Problem { version: Some(version), ..Problem::new(Code::ConflictChanged, detail) };
        }
        sync::Error::Store(store::Error::Full) => {
            (Code::StorageFull, "The appliance's disk is full. Keep your changes; they can be sent when there is space again.".into())
        }
        sync::Error::Store(store::Error::Closed) => (Code::Unavailable, "The appliance is stopping or busy. Try again.".into()),
        error
        @ (sync::Error::Rules(_) | sync::Error::Store(store::Error::Sqlite(_) | store::Error::Schema(_) | store::Error::Panicked)) => {
            tracing::error!(error = %error, "a request failed inside");
            (Code::Internal, "Something failed inside the appliance. Its log names the cause under this request's id.".into())
        }
    };
    Problem::new(code, detail)
}

/// A use case's result, JSON text or an error.
pub(super) fn text(result: sync::Result<Vec<u8>>) -> Response {
    result.map_or_else(error, |body| json_text(StatusCode::OK, body))
}

/// A use case's result, to be written as JSON, or an error.
pub(super) fn value(result: sync::Result<impl Serialize>) -> Response {
    result.map_or_else(error, |value| json(&value))
}

/// A page of a list: `{<name>: […], "next": …}`.
pub(super) fn list(name: &str, result: sync::Result<(Vec<serde_json::Value>, Option<String>)>) -> Response {
    value(result.map(|(entries, next)| serde_json::json!({ name: entries, "next": next })))
}
