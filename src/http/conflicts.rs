//! The conflict inbox: list, one, resolve.

use bytes::Buf;
use futures_util::Stream;
use http::HeaderMap;
use warp::Filter;

use crate::protocol::problem::{Code, Problem};
use crate::sync::{conflicts, resolve};

use super::answer::Handled;
use super::caller::{self, Call, call};
use super::devices::{limit, parameter};
use super::{Routes, Segment, Shared, answer, body, with};

/// `GET /sync/conflicts`, `GET /sync/conflicts/{id}`, `POST /sync/conflicts/{id}/resolve`.
pub(super) fn routes(app: &Shared) -> Routes {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let list = warp::path!("api" / "v1" / "sync" / "conflicts").and(warp::get()).and(with(app)).and(call()).and(query).then(get_list);
    let one = warp::path!("api" / "v1" / "sync" / "conflicts" / Segment).and(warp::get()).and(with(app)).and(call()).then(get_one);
    let resolve = warp::path!("api" / "v1" / "sync" / "conflicts" / Segment / "resolve")
        .and(warp::post())
        .and(with(app))
        .and(call())
        .and(warp::body::stream())
        .then(post_resolve);
    list.or(one).unify().or(resolve).unify().map(answer::settle).boxed()
}

async fn get_list(app: Shared, call: Call, headers: HeaderMap, query: String) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    let open = match parameter(&query, "status").as_deref() {
        None => None,
        Some("open") => Some(true),
        Some("resolved") => Some(false),
        Some(_) => return Err(answer::problem(Problem::new(Code::InvalidRequest, "status is open or resolved."))),
    };
    let [table, record, device, after] = ["table", "record", "device_id", "after"].map(|name| parameter(&query, name));
    let wanted = conflicts::Wanted { open, table, record, device };
    Ok(answer::text(conflicts::list(&app, &actor, wanted, after, limit(&query)).await))
}

async fn get_one(Segment(id): Segment, app: Shared, call: Call, headers: HeaderMap) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    Ok(answer::text(conflicts::one(&app, &actor, &id).await))
}

async fn post_resolve(
    Segment(id): Segment,
    app: Shared,
    call: Call,
    headers: HeaderMap,
    stream: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Handled {
    let actor = caller::anyone(&app, &call, &headers)?;
    let body = body::read(&headers, stream, app.limits.body_bytes).await?;
    Ok(answer::text(resolve::resolve(&app, &actor, &id, &body).await))
}
