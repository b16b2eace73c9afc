//! Alive, and ready. No detail to strangers.

use http::StatusCode;
use warp::Filter;
use warp::reply::Response;

use crate::store::meta;

use super::{Routes, Shared, answer, with};

/// `GET /healthz`, `GET /readyz`.
pub(super) fn routes(app: &Shared) -> Routes {
    let health = warp::path!("healthz").and(warp::get()).map(|| answer::json_text(StatusCode::OK, "{\"status\":\"ok\"}"));
    let ready = warp::path!("readyz").and(warp::get()).and(with(app)).then(get_ready);
    health.or(ready).unify().boxed()
}

async fn get_ready(app: Shared) -> Response {
    let answered = app.store.readers.run(|db| Ok(meta::epoch(db)?)).await;
    match answered {
        Ok(_) => answer::json_text(StatusCode::OK, "{\"status\":\"ready\"}"),
        Err(error) => answer::error(error.into()),
    }
}
