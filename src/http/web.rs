//! The embedded pages. Static files come last and never answer under `/api`.

use http::{HeaderValue, header};
use rust_embed::Embed;
use warp::Filter;
use warp::path::Tail;
use warp::reply::Response;

use crate::protocol::problem::{Code, Problem};

use super::{Routes, Shared, answer, openapi};

#[derive(Embed)]
#[folder = "web/"]
struct Files;

/// `GET /`, `GET /setup`, `GET /join`, `GET /api/v1/openapi.json` and the files that the pages need.
pub(super) fn routes(_app: &Shared) -> Routes {
    let description =
        warp::path!("api" / "v1" / "openapi.json").and(warp::get()).map(|| answer::json_text(http::StatusCode::OK, openapi::DOCUMENT));
    let files = outside_api().and(warp::path::tail()).and(warp::get()).map(|tail: Tail| file(tail.as_str()));
    description.or(files).unify().boxed()
}

/// Lets only paths outside `/api` through, so that a wrong method there is still told as one.
fn outside_api() -> impl Filter<Extract = (), Error = warp::Rejection> + Copy {
    let check = |path: warp::path::FullPath| async move {
        if path.as_str().starts_with("/api/") { Err(warp::reject::not_found()) } else { Ok(()) }
    };
    warp::path::full().and_then(check).untuple_one()
}

fn file(path: &str) -> Response {
    let name = match path {
        "" => "index.html",
        "setup" => "setup.html",
        "join" => "join.html",
        name => name,
    };
    let kind = match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "application/octet-stream",
    };
    match Files::get(name) {
        Some(file) => {
            let mut response = answer::json_text(http::StatusCode::OK, file.data.into_owned());
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        }
        None => answer::problem(Problem::new(Code::NotFound, "There is nothing at this address.")),
    }
}
