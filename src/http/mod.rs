//! Layer 4: the only place that knows warp. Routes per resource; filters only extract, handlers are plain async functions.
#![allow(clippy::result_large_err, reason = "the error is the answer itself, made once for a request that is refused")]

mod account;
mod answer;
mod body;
mod caller;
mod conflicts;
mod devices;
mod health;
pub mod listener;
mod live;
mod metrics;
pub mod openapi;
mod records;
mod serve;
mod sync;
mod web;

use std::sync::Arc;

use tokio::sync::watch;
use warp::filters::BoxedFilter;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::protocol::problem::{Code, Problem};
use crate::sync::App;

pub use serve::Settings;

/// What handlers share.
type Shared = Arc<App>;

/// One resource's routes.
type Routes = BoxedFilter<(Response,)>;

/// All routes. The ones that devices call most come first.
fn routes(app: &Shared, settings: &Arc<Settings>, stop: &watch::Receiver<bool>) -> BoxedFilter<(Response,)> {
    sync::routes(app)
        .or(devices::routes(app))
        .unify()
        .or(records::routes(app))
        .unify()
        .or(conflicts::routes(app))
        .unify()
        .or(account::routes(app))
        .unify()
        .or(live::routes(app, settings, stop))
        .unify()
        .or(health::routes(app))
        .unify()
        .or(metrics::routes(app, settings))
        .unify()
        .or(web::routes(app))
        .unify()
        .recover(recover)
        .unify()
        .boxed()
}

/// What no route took. The status is all that warp's rejections tell here: handlers answer with problems themselves.
async fn recover(rejection: Rejection) -> Result<Response, std::convert::Infallible> {
    let (code, detail) = if rejection.is_not_found() {
        (Code::NotFound, "There is nothing at this address.")
    } else if rejection.find::<warp::reject::MethodNotAllowed>().is_some() {
        (Code::MethodNotAllowed, "This address exists, but not for this method.")
    } else {
        (Code::InvalidRequest, "The request is not understood.")
    };
    Ok(answer::problem(Problem::new(code, detail)))
}

/// A part of a path, decoded: `%3A` and `:` name the same record.
#[derive(Debug)]
struct Segment(String);

impl std::str::FromStr for Segment {
    type Err = std::str::Utf8Error;

    fn from_str(text: &str) -> Result<Segment, Self::Err> {
        percent_encoding::percent_decode_str(text).decode_utf8().map(|text| Segment(text.into_owned()))
    }
}

/// A handler's share of the application.
fn with(app: &Shared) -> impl Filter<Extract = (Shared,), Error = std::convert::Infallible> + Clone + use<> {
    let app = app.clone();
    warp::any().map(move || app.clone())
}
