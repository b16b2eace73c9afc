//! `/metrics`, for Prometheus: to who shows the token, and to programs of this machine.

use std::path::Path;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use subtle::ConstantTimeEq;
use warp::Filter;

use crate::auth::token;
use crate::protocol::problem::{Code, Problem};
use crate::sync::figures;
use crate::telemetry::metrics::{OPENMETRICS, PLAIN, plain};

use super::answer::Handled;
use super::caller::{self, Call, call};
use super::{Routes, Settings, Shared, answer, with};

/// Where tailscaled listens: Linux, Synology (DSM 7, DSM 6), QNAP, its container, macOS.
const TAILSCALED: [&str; 7] = [
    "/var/run/tailscale/tailscaled.sock",
    "/run/tailscale/tailscaled.sock",
    "/var/packages/Tailscale/var/tailscaled.sock",
    "/var/packages/Tailscale/etc/tailscaled.sock",
    "/tmp/tailscale/tailscaled.sock",
    "/tmp/tailscaled.sock",
    "/var/run/tailscaled.socket",
];
/// The Unix sockets of this network namespace. A side-car's is among them, whose files are not seen from here.
const SOCKETS: &str = "/proc/net/unix";
/// What proxies add. Behind one, everybody comes from this machine.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "via", "x-real-ip"];

/// `GET /metrics`.
pub(super) fn routes(app: &Shared, settings: &Settings) -> Routes {
    let token = settings.metrics_token;
    let metrics = warp::path!("metrics").and(warp::get()).and(with(app)).and(call());
    metrics.then(move |app, call, headers| get_metrics(app, call, headers, token)).map(answer::settle).boxed()
}

async fn get_metrics(app: Shared, call: Call, headers: HeaderMap, token: Option<[u8; 32]>) -> Handled {
    let shown = caller::bearer(&headers).map(token::hash);
    let knows = token.zip(shown).is_some_and(|(token, shown)| bool::from(token.ct_eq(&shown)));
    // Whoever shows a token means it.
    let wrong = token.is_some() && shown.is_some() && !knows;
    if wrong || !(knows || is_of_this_machine(&call, &headers)) {
        return Err(answer::problem(Problem::new(Code::Unauthorized, "Not without the token.")));
    }
    let text = figures::metrics(&app).await.map_err(answer::error)?;
    let (kind, text) = if wants_plain(&headers) { (PLAIN, plain(&text)) } else { (OPENMETRICS, text) };
    let mut response = answer::json_text(StatusCode::OK, text);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// A program of this machine asks, as far as its address can tell: with tailscaled's userspace networking the whole tailnet
/// comes from here.
fn is_of_this_machine(call: &Call, headers: &HeaderMap) -> bool {
    let forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
    call.address().to_canonical().is_loopback() && !forwarded && !tailscaled_runs()
}

fn tailscaled_runs() -> bool {
    TAILSCALED.iter().any(|path| Path::new(path).exists())
        || std::fs::read_to_string(SOCKETS).is_ok_and(|sockets| names_tailscaled(&sockets))
}

fn names_tailscaled(sockets: &str) -> bool {
    sockets.lines().any(|line| line.ends_with("/tailscaled.sock"))
}

/// Only the older format will do.
fn wants_plain(headers: &HeaderMap) -> bool {
    let accept: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let wants = |kind: &str| accept.iter().flat_map(|text| text.split(',')).any(|entry| entry.trim().starts_with(kind));
    wants("text/plain") && !wants("application/openmetrics-text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_cars_socket_is_found() {
        let head = "Num       RefCount Protocol Flags    Type St Inode Path\n";
        let line = |path: &str| format!("{head}0000000000000000: 00000002 00000000 00010000 0001 01 29341 {path}\n");
        assert!(names_tailscaled(&line("/tmp/tailscaled.sock")) && names_tailscaled(&line("/odd/place/tailscaled.sock")));
        assert!(!names_tailscaled(&line("/run/tailscaled.sock.old")) && !names_tailscaled(&line("@tailscaled")) && !names_tailscaled(head));
    }

    #[test]
    fn the_older_format_is_for_those_who_take_no_other() {
        let of = |accept: &str| wants_plain(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]));
        assert!(of("text/plain") && of("text/plain;version=0.0.4;q=1,*/*;q=0.1"));
        assert!(
            !of("*/*")
                && !of("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
                && !wants_plain(&HeaderMap::new())
        );
    }
}
