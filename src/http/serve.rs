//! Around all routes: request ids, the Host and Origin checks, problems' bodies, compression, security headers.

use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use tokio::sync::watch;
use tower_service::Service;
use warp::filters::BoxedFilter;
use warp::reply::Response;

use crate::protocol::problem::{Code, Problem};

use super::answer::{self, CloseAfter};
use super::caller::Call;
use super::{Shared, routes};

/// Answers smaller than this are sent as they are.
const COMPRESS_FROM: u64 = 1_024;
/// Compressing more than this leaves the event loop.
const ASIDE: usize = 64 << 10;

/// What the outer layer is told by the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Host names, beyond addresses, single labels and private suffixes, that requests may name.
    pub hosts: Vec<String>,
    /// Live connections at once.
    pub sockets: usize,
    /// Between two pings of a live connection.
    pub ping: Duration,
    /// Without any sign of life for so long, a live connection is closed.
    pub idle: Duration,
    /// SHA-256 of the token that opens `/metrics`.
    pub metrics_token: Option<[u8; 32]>,
}

/// All of the HTTP side, for every connection.
#[derive(Clone)]
pub(super) struct Outer {
    routes: BoxedFilter<(Response,)>,
    settings: Arc<Settings>,
    /// Random part of request ids, so that two runs do not share them.
    run: u32,
    count: Arc<AtomicU64>,
}

impl Outer {
    pub(super) fn new(app: &Shared, settings: Settings, stop: watch::Receiver<bool>) -> Outer {
        let settings = Arc::new(settings);
        Outer { routes: routes(app, &settings, &stop), settings, run: getrandom::u32().unwrap_or(0), count: Arc::default() }
    }

    /// The id of the next request.
    pub(super) fn next_id(&self) -> Arc<str> {
        format!("{:08x}-{:x}", self.run, self.count.fetch_add(1, Ordering::Relaxed)).into()
    }

    /// Serves one request.
    pub(super) async fn serve(&self, mut request: Request<Incoming>, call: Call) -> Response {
        let began = Instant::now();
        let (id, method, path) = (call.id.clone(), request.method().clone(), request.uri().path().to_owned());
        let gzip = accepts_gzip(request.headers());
        let secure = path.starts_with("/api/") || path.ends_with("z") || path == "/metrics";
        let mut response = match self.check(&request) {
            Some(problem) => answer::problem(problem),
            None => {
                request.extensions_mut().insert(call);
                let span = tracing::debug_span!("request", id = %id);
                let handled = warp::service(self.routes.clone()).call(request);
                match tracing::Instrument::instrument(handled, span).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                }
            }
        };
        if let Some(mut problem) = response.extensions_mut().remove::<Problem>() {
            problem.request_id = id.to_string();
            let body = serde_json::to_vec(&problem).unwrap_or_default();
            *response.body_mut() = body.into();
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        }
        if gzip && response.body().size_hint().exact().is_some_and(|size| size >= COMPRESS_FROM) {
            response = compress(response).await;
        }
        let close = response.extensions_mut().remove::<CloseAfter>().is_some();
        headers(response.headers_mut(), &id, secure, close);
        let (status, duration_ms) = (response.status().as_u16(), began.elapsed().as_secs_f64() * 1_000.0);
        tracing::debug!(request.id = %id, http.method = %method, http.path = %path, http.status = status, duration_ms, "request served");
        response
    }

    /// A request that another site's page made a browser send, or one that a foreign name led here.
    fn check(&self, request: &Request<Incoming>) -> Option<Problem> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
        let refuse = |detail: &str| Some(Problem::new(Code::ForbiddenOrigin, detail));
        if let Some(host) = host
            && !self.is_own(host)
        {
            return refuse("The request names a host that is not this appliance's. Add it to [server] hosts.");
        }
        // A socket is opened by GET, and does what writes do.
        if matches!(*request.method(), Method::GET | Method::HEAD) && !request.headers().contains_key(header::UPGRADE) {
            return None;
        }
        let site = request.headers().get("sec-fetch-site").and_then(|site| site.to_str().ok());
        if site.is_some_and(|site| !matches!(site, "same-origin" | "none")) {
            return refuse("The request was made by a page of another site.");
        }
        let own = |origin: &HeaderValue| {
            let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
            origin.is_some_and(|(_, origin)| Some(origin) == host)
        };
        let all = request.headers().get_all(header::ORIGIN).iter().all(own);
        if all { None } else { refuse("The request was made by a page of another site.") }
    }

    fn is_own(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && (!name.contains(':') || name.starts_with('[')) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        // Names that no stranger on the internet can own, so that no page of theirs can be rebound to this address.
        const PRIVATE: [&str; 6] = [".ts.net", ".local", ".localhost", ".internal", ".lan", ".home.arpa"];
        name.parse::<IpAddr>().is_ok()
            || !name.contains('.')
            || PRIVATE.iter().any(|suffix| name.ends_with(suffix))
            || self.settings.hosts.iter().any(|own| own.eq_ignore_ascii_case(&name))
    }
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|text| text.split(',')).any(|entry| {
        let mut parts = entry.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty()));
        (name.eq_ignore_ascii_case("gzip") || name == "*") && !refused
    })
}

async fn compress(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let Ok(plain) = body.collect().await.map(|body| body.to_bytes()) else {
        return answer::problem(Problem::new(Code::Internal, "The answer broke off."));
    };
    let packed = if plain.len() > ASIDE {
        let plain = plain.clone();
        tokio::task::spawn_blocking(move || gzip(&plain)).await.ok().flatten()
    } else {
        gzip(&plain)
    };
    let body = match packed {
        Some(packed) => {
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            packed
        }
        None => plain,
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body.into())
}

fn gzip(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(plain.len() / 4), flate2::Compression::fast());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

fn headers(headers: &mut HeaderMap, id: &str, api: bool, close: bool) {
    let mut set = |name, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(
        header::CONTENT_SECURITY_POLICY,
        if api {
            "default-src 'none'; frame-ancestors 'none'"
        } else {
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        },
    );
    if api {
        set(header::CACHE_CONTROL, "no-store");
    }
    if close {
        set(header::CONNECTION, "close");
    }
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-request-id", id);
    }
}
