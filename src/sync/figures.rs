//! The figures by which a manager sees how syncing goes, and what is counted for them. A page that monitors reads the same ones as
//! the page of a person.

use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;
use serde_json::{Value, json};

use crate::domain::clock::Micros;
use crate::protocol::push::Report;
use crate::store::hours::HOUR;
use crate::store::{conflicts, meta};

use super::devices::{in_sync, is_active, last_seen};
use super::{App, Result};

/// Hours of a day.
pub const DAY: i64 = 24;
/// Hours of a week.
pub const WEEK: i64 = 7 * DAY;

/// A push or pull was answered: `served` as asked, or with a problem.
pub fn synced(app: &App, durations: &Histogram, began: Instant, served: bool) {
    if !served {
        return refused(app);
    }
    let took = began.elapsed();
    durations.observe(took.as_secs_f64());
    app.store.metrics.served.inc();
    app.store.hours.served(app.store.clock.now(), took.as_micros() as Micros);
}

/// A push or pull of a known device was answered with a problem.
pub fn refused(app: &App) {
    app.store.metrics.failed.inc();
    app.store.hours.failed(app.store.clock.now());
}

/// The figures of so many hours, with the changes and conflicts that were counted in them.
pub(super) fn window(app: &App, hours: i64, (changes, conflicts): (i64, i64)) -> Value {
    let now = app.store.clock.now();
    let syncs = app.store.hours.last(hours, now);
    let all = syncs.served + syncs.failed;
    let rate = |part: i64, whole: i64, none: f64| if whole > 0 { part as f64 / whole as f64 } else { none };
    json!({
        "syncs": all,
        "failed_syncs": syncs.failed,
        "sync_success_rate": rate(syncs.served, all, 1.0),
        "changes": changes,
        "conflicts": conflicts,
        "conflict_rate": rate(conflicts, changes + conflicts, 0.0),
        "average_sync_ms": (syncs.served > 0).then(|| syncs.micros as f64 / syncs.served as f64 / 1_000.0),
        "devices_behind": devices(app, hours).behind,
    })
}

/// The devices of some time.
#[derive(Debug, Default)]
struct Devices {
    active: usize,
    behind: usize,
}

/// Active devices that were seen, or enrolled, within so many hours.
fn devices(app: &App, hours: i64) -> Devices {
    let (now, office, directory) = (app.store.clock.now(), app.office(), app.store.accounts.now());
    let mut found = Devices::default();
    for device in directory.devices().filter(|device| is_active(device, now) && last_seen(device) >= now - hours * HOUR) {
        found.active += 1;
        // The writer waits for this lock, so it is taken for each device anew.
        found.behind += usize::from(!in_sync(&office, &app.store.live.read(), device));
    }
    found
}

/// What active devices reported, together.
#[derive(Debug, Default, serde::Serialize)]
pub(super) struct Queue {
    pending: u64,
    failed: u64,
    attempts: u64,
    failures: u64,
    /// Age of the oldest pending change by now, seconds; null: nothing is pending.
    oldest_pending_s: Option<f64>,
}

/// Sums of the reports of active devices.
pub(super) fn queue(app: &App) -> Queue {
    let now = app.store.clock.now();
    let mut queue = Queue::default();
    for device in app.store.accounts.now().devices().filter(|device| is_active(device, now)) {
        let Some((text, at)) = device.activity.report() else { continue };
        let Some(report) = Report::read(&text) else { continue };
        let pending = report.pending.unwrap_or(0);
        queue.pending += pending;
        queue.failed += report.failed.unwrap_or(0);
        queue.attempts += report.attempts.unwrap_or(0);
        queue.failures += report.failures.unwrap_or(0);
        if let Some(age) = report.oldest_pending_s.filter(|_| pending > 0) {
            let since = (now - at.unwrap_or(now)).max(0) as f64 / 1e6;
            queue.oldest_pending_s = Some(queue.oldest_pending_s.unwrap_or(0.0).max(age + since));
        }
    }
    queue
}

/// All figures, as OpenMetrics.
pub async fn metrics(app: &App) -> Result<String> {
    let (bytes, open) = app.store.readers.run(|db| Ok((meta::bytes(db)?, conflicts::open_by_feed(db)?.into_values().sum::<i64>()))).await?;
    let (devices, queue) = (devices(app, super::devices::ACTIVE_DAYS * DAY), queue(app));
    Ok(app.store.metrics.text(&[
        ("backroom_sync_live_connections", "Open live connections", app.hub.count() as f64),
        ("backroom_sync_devices_connected", "Devices with a live connection", app.hub.connected().len() as f64),
        ("backroom_sync_db_bytes", "Size of the database", bytes as f64),
        ("backroom_sync_open_conflicts", "Conflicts that wait for a decision", open as f64),
        ("backroom_sync_devices", "Active devices", devices.active as f64),
        ("backroom_sync_devices_behind", "Active devices that were not given all of their view", devices.behind as f64),
        ("backroom_sync_devices_pending", "Changes that wait on active devices, as reported", queue.pending as f64),
        ("backroom_sync_devices_failed", "Changes that active devices gave up on, as reported", queue.failed as f64),
        ("backroom_sync_devices_attempts", "Syncs that active devices tried, as reported", queue.attempts as f64),
        ("backroom_sync_devices_failures", "Syncs that failed on active devices, as reported", queue.failures as f64),
        ("backroom_sync_oldest_pending_seconds", "Age of the oldest change that waits", queue.oldest_pending_s.unwrap_or(0.0)),
    ]))
}
