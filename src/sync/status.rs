//! Status: what a manager wants to know, and what a device wants to know about itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::domain::actor::Actor;
use crate::domain::clock;
use crate::domain::cursor::Cursor;
use crate::store::hours::HOUR;
use crate::store::live::{Delta, FeedNo};
use crate::store::{activity, conflicts, meta};

use super::{App, Result, figures};

/// Devices in one status answer; the list call pages through all.
const DEVICES: usize = crate::domain::limits::LIST_ENTRIES;

/// Everything that the actor may know; `only`: about one device.
pub async fn status(app: &App, actor: &Actor, only: Option<&str>) -> Result<Value> {
    let now = app.store.clock.now();
    let office = app.office();
    let (mut devices, _) = super::devices::list(app, actor, only, None, usize::MAX).await?;
    if only.is_some() && devices.is_empty() {
        return super::problem(crate::protocol::problem::Code::NotFound, "There is no such device.");
    }
    // Counts cover the feeds of the actor's view, and no others.
    let (feeds, records, tombstones, uncounted, cursor) = {
        let state = app.store.live.read();
        let feeds: Vec<FeedNo> = office.tables().flat_map(|table| table.feeds(actor, &state)).collect();
        let (mut records, mut tombstones) = (0, 0);
        for feed in feeds.iter().filter_map(|no| state.numbered(*no)) {
            records += feed.records;
            tombstones += feed.tombstones;
        }
        let uncounted: (HashMap<FeedNo, Delta>, _) = (state.uncounted.clone(), state.time);
        let view = state.view + app.store.accounts.now().user(&actor.user).map_or(0, |user| user.view);
        let cursor = Cursor { epoch: state.epoch, seq: state.head, view, tables: 0, start: None };
        (feeds, records, tombstones, uncounted, cursor)
    };
    let wide = actor.role.sees_all();
    let (open, day, week, bytes) = app
        .store
        .readers
        .run(move |db| {
            let open: HashMap<FeedNo, i64> = conflicts::open_by_feed(db)?;
            let since = |hours| activity::since(db, now / HOUR - hours + 1);
            Ok((open, since(figures::DAY)?, since(figures::WEEK)?, meta::bytes(db)?))
        })
        .await?;
    let open_conflicts: i64 = match wide {
        true => feeds.iter().filter_map(|feed| open.get(feed)).sum(),
        false => super::conflicts::open_of_store(app, actor).await?,
    };
    // What the hours' rows do not know yet is as old as the newest change.
    let sum = |rows: &HashMap<FeedNo, (i64, i64)>, hours: i64| {
        let (fresh, time) = (&uncounted.0, uncounted.1);
        let fresh = feeds.iter().filter(|_| time / HOUR > now / HOUR - hours).filter_map(|feed| fresh.get(feed));
        let fresh = fresh.map(|delta| (delta.changes, delta.conflicts));
        feeds.iter().filter_map(|feed| rows.get(feed)).copied().chain(fresh).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    };
    let ((changes, clashes), week) = (sum(&day, figures::DAY), sum(&week, figures::WEEK));
    let figures = actor.role.manages().then(|| {
        json!({
            "24h": figures::window(app, figures::DAY, (changes, clashes)),
            "7d": figures::window(app, figures::WEEK, week),
        })
    });
    let queue = actor.role.manages().then(|| figures::queue(app));
    let tables: serde_json::Map<String, Value> = office
        .tables()
        .filter(|table| actor.may_read(&table.rules))
        .map(|table| {
            let rules = &table.rules;
            let mut entry = serde_json::to_value(rules).unwrap_or_default();
            // What they say is the office's own business.
            (entry["schema"], entry["script"]) = (json!(rules.schema.is_some()), json!(rules.script.is_some()));
            entry["writable"] = json!(actor.may_write(rules));
            if let Some(field) = rules.scope_field() {
                entry["scope_field"] = json!(field);
            }
            (table.name.to_string(), entry)
        })
        .collect();
    let active = devices.iter().filter(|device| device["status"] == "active").count();
    let connected = devices.iter().filter(|device| device["connected"] == true).count();
    devices.truncate(DEVICES);
    let last_sync: serde_json::Map<String, Value> =
        devices.iter().filter_map(|device| Some((device["device_id"].as_str()?.to_owned(), device["last_sync"].clone()))).collect();
    let full = matches!(app.accepts_writes(), Err(super::Error::Problem(crate::protocol::problem::Code::StorageFull, _)));
    let counts = app.store.writer.counts();
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let paused = app.store.accounts.now().paused;
    Ok(json!({
        "success": true,
        "status": if paused { "paused" } else if full { "storage_full" } else { "ok" },
        "timestamp": clock::text(now),
        "version": env!("CARGO_PKG_VERSION"),
        "tables": tables,
        "active_devices": active,
        "connected_devices": connected,
        "last_sync": last_sync,
        "cursor": cursor.text(),
        "counts": {
            "records": records,
            "tombstones": tombstones,
            "open_conflicts": open_conflicts,
            "changes_24h": changes,
            "conflicts_24h": clashes,
            "conflict_rate_24h": if changes + clashes > 0 { json!(clashes as f64 / (changes + clashes) as f64) } else { json!(0.0) },
        },
        "figures": figures,
        "queue": queue,
        "database_bytes": if wide { json!(bytes) } else { Value::Null },
        "writer": if wide { json!({ "jobs": count(&counts.jobs), "commits": count(&counts.commits) }) } else { Value::Null },
        "last_backup": Value::Null,
        "devices": devices,
        "limits": app.limits,
    }))
}
