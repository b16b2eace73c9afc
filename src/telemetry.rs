//! What the appliance tells of itself: its log here, its figures in `metrics`.
//!
//! The log is sentences with dotted fields, plain or JSON, to standard error. Never a token, never a record's content.

pub mod metrics;

use tracing_subscriber::EnvFilter;

/// Starts logging. A second start in one process (tests) changes nothing.
pub fn start(level: &str, json: bool) {
    let filter = EnvFilter::try_from_env("BACKROOM_LOG").unwrap_or_else(|_| EnvFilter::new(format!("warn,backroom={level}")));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
