//! One record, its history, and restoring a version of it.

use bytes::Buf;
use futures_util::Stream;
use http::HeaderMap;
use warp::Filter;

use crate::sync::{records, resolve};

use super::answer::Handled;
use super::caller::{self, Call, call};
use super::devices::{limit, parameter};
use super::{Routes, Segment, Shared, answer, body, with};

/// `GET /records/{table}/{id}`, `GET /records/{table}/{id}/history`, `POST /records/{table}/{id}/history/{version}/restore`.
pub(super) fn routes(app: &Shared) -> Routes {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let one = warp::path!("api" / "v1" / "records" / Segment / Segment).and(warp::get()).and(with(app)).and(call()).then(get_one);
    let history = warp::path!("api" / "v1" / "records" / Segment / Segment / "history")
        .and(warp::get())
        .and(with(app))
        .and(call())
        .and(query)
        .then(get_history);
    let restore = warp::path!("api" / "v1" / "records" / Segment / Segment / "history" / Segment / "restore")
        .and(warp::post())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(post_restore);
    one.or(history).unify().or(restore).unify().map(answer::settle).boxed()
}

async fn get_one(Segment(table): Segment, Segment(id): Segment, app: Shared, call: Call, headers: HeaderMap) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    Ok(answer::text(records::one(&app, &actor, &table, &id).await))
}

async fn get_history(Segment(table): Segment, Segment(id): Segment, app: Shared, call: Call, headers: HeaderMap, query: String) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    let after = parameter(&query, "after").and_then(|version| version.parse().ok());
    Ok(answer::list("history", records::history(&app, &actor, &table, &id, after, limit(&query)).await))
}

async fn post_restore(
    Segment(table): Segment,
    Segment(id): Segment,
    Segment(version): Segment,
    app: Shared,
    call: Call,
    headers: HeaderMap,
    stream: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    let body = body::read(&headers, stream, app.limits.body_bytes).await?;
    Ok(answer::text(resolve::restore(&app, &actor, &table, &id, version.parse().ok(), &body).await))
}
