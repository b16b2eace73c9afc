//! Devices: list, one, rename, revoke, and what was refused of theirs.

use bytes::Buf;
use futures_util::Stream;
use http::HeaderMap;
use warp::Filter;

use crate::domain::limits;
use crate::protocol::account::RenameRequest;
use crate::sync::devices;

use super::answer::Handled;
use super::caller::{self, Call, call};
use super::{Routes, Segment, Shared, answer, body, with};

/// `GET /sync/devices`, `GET|PATCH|DELETE /sync/devices/{id}`, `GET /sync/devices/{id}/rejected`.
pub(super) fn routes(app: &Shared) -> Routes {
    let query = || warp::query::raw().or(warp::any().map(String::new)).unify();
    let list = warp::path!("api" / "v1" / "sync" / "devices").and(warp::get()).and(with(app)).and(call()).and(query()).then(get_list);
    let one = warp::path!("api" / "v1" / "sync" / "devices" / Segment).and(warp::get()).and(with(app)).and(call()).then(get_one);
    let rename = warp::path!("api" / "v1" / "sync" / "devices" / Segment)
        .and(warp::patch())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(patch_one);
    let revoke = warp::path!("api" / "v1" / "sync" / "devices" / Segment).and(warp::delete()).and(with(app)).and(call()).then(delete_one);
    let rejected = warp::path!("api" / "v1" / "sync" / "devices" / Segment / "rejected")
        .and(warp::get())
        .and(with(app))
        .and(call())
        .and(query())
        .then(get_rejected);
    list.or(one).unify().or(rename).unify().or(revoke).unify().or(rejected).unify().map(answer::settle).boxed()
}

/// A parameter of a query string, decoded.
pub(super) fn parameter(query: &str, name: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// `limit` of a list: 100 by default, at most 500.
pub(super) fn limit(query: &str) -> usize {
    let wanted = parameter(query, "limit").and_then(|text| text.parse::<usize>().ok());
    wanted.unwrap_or(100).clamp(1, limits::LIST_ENTRIES)
}

async fn get_list(app: Shared, call: Call, headers: HeaderMap, query: String) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    Ok(answer::list("devices", devices::list(&app, &actor, None, parameter(&query, "after").as_deref(), limit(&query)).await))
}

async fn get_one(Segment(id): Segment, app: Shared, call: Call, headers: HeaderMap) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    Ok(answer::value(devices::one(&app, &actor, &id).await))
}

async fn patch_one(
    Segment(id): Segment,
    app: Shared,
    call: Call,
    headers: HeaderMap,
    stream: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    let request = body::json::<RenameRequest, _, _>(&headers, stream).await?;
    Ok(answer::value(devices::rename(&app, &actor, &id, &request.name).await))
}

async fn delete_one(Segment(id): Segment, app: Shared, call: Call, headers: HeaderMap) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    Ok(answer::value(devices::revoke(&app, &actor, &id).await))
}

async fn get_rejected(Segment(id): Segment, app: Shared, call: Call, headers: HeaderMap, query: String) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    let page = devices::rejected(&app, &actor, &id, parameter(&query, "after").as_deref(), limit(&query)).await;
    Ok(answer::list("rejected", page))
}
