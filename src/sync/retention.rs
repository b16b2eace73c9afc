//! Retention: what goes, in slices that never hold the writer up for long, each night and on an admin's word.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::domain::clock::DAY;
use crate::sqlite::writer::Outcome;
use crate::store::retention::{Bounds, Removed, Sweep, slice};
use crate::store::{activity, audit, devices, hours, records};

use super::devices::ACTIVE_DAYS;
use super::{App, Result};

/// What one slice may take of the writer's time. Slices shrink or grow towards it.
const SLICE: Duration = Duration::from_millis(5);

/// Removes what is older than `days`. `by`: the admin who asked, for the audit log; `None`: the nightly run.
pub async fn cleanup(app: &App, days: i64, by: Option<&str>) -> Result<Removed> {
    let (days, max_days, clock) = (days.max(0), app.retention.max_days, app.store.clock.clone());
    let mut removed = Removed::default();
    let (mut rows, mut sweep) = (50, Sweep::default());
    // What is old is settled once: with 0 days, what comes while it runs would otherwise keep it running.
    let before = clock.now() - days * DAY + i64::from(days == 0);
    let accounts = app.store.accounts.clone();
    // How far each device has come is partly still in memory.
    app.store.writer.run(move |db, _| Ok(Outcome::Keep(accounts.flush(db)?))).await?;
    loop {
        let clock = clock.clone();
        let mut at = std::mem::take(&mut sweep);
        let (part, took, last) = app
            .store
            .writer
            .run(move |db, ledger| {
                let began = Instant::now();
                let now = clock.now();
                let active = devices::all(db)?.into_iter().filter(|device| {
                    device.revoked_at.is_none() && device.seen.seen_at.unwrap_or(device.created_at) > now - ACTIVE_DAYS * DAY
                });
                let bounds = Bounds {
                    before,
                    seq: records::seq_at(db, before)?,
                    // A device that never pulled begins from zero, where tombstones are left out anyway.
                    passed: active
                        .filter(|device| device.seen.pulled_at.is_some())
                        .map(|device| if device.seen.pulled { device.seen.cursor } else { 0 })
                        .min()
                        .unwrap_or(i64::MAX),
                    // What was answered before the first change stands at 0, and is not old for that.
                    in_any_case: Some(records::seq_at(db, now - max_days * DAY)?).filter(|seq| *seq > 0).unwrap_or(-1),
                };
                let (part, last) = slice(db, ledger, &bounds, rows, &mut at)?;
                Ok(Outcome::Keep((part, began.elapsed(), if last { None } else { Some(at) })))
            })
            .await?;
        removed.add(&part);
        match last {
            Some(at) => sweep = at,
            None => break,
        }
        rows = if took > SLICE { (rows / 2).max(5) } else { (rows * 2).min(2_000) };
    }
    let (by, counts) = (by.map(str::to_owned), json!(removed));
    // The figures of a week are made of them.
    let oldest = (app.store.clock.now() - app.retention.days.max(8) * DAY) / hours::HOUR;
    app.store
        .writer
        .run(move |db, ledger| {
            activity::purge(db, oldest)?;
            hours::purge(db, oldest)?;
            if let Some(by) = by {
                audit::write(db, ledger.now(), &by, "cleanup", "database", &json!({ "days_old": days, "removed": counts }))?;
            }
            Ok(Outcome::Keep(()))
        })
        .await?;
    Ok(removed)
}
