//! Syncs an hour: kept in memory, written with commits that happen anyway.
//!
//! Memory has the whole of what a look may ask for, so nobody adds rows to memory, and a commit that fails loses nothing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;

use crate::domain::clock::Micros;

/// One hour, microseconds.
pub const HOUR: Micros = 3_600_000_000;
/// Hours that are kept in memory: a week, and the one that runs.
const KEPT: i64 = 7 * 24 + 1;

/// The syncs of some time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Syncs {
    /// Pushes and pulls that were served.
    pub served: i64,
    /// Those that were answered with a problem.
    pub failed: i64,
    /// What the served ones took together, microseconds.
    pub micros: i64,
}

#[derive(Debug, Default)]
struct Hour {
    syncs: Syncs,
    /// The row does not know all of it.
    dirty: bool,
    /// A transaction that is under way has written it.
    writing: bool,
}

/// The last hours.
#[derive(Debug, Default)]
pub struct Hours(Mutex<BTreeMap<i64, Hour>>);

impl Hours {
    /// Reads them at start.
    pub fn load(db: &Connection, now: Micros) -> rusqlite::Result<Hours> {
        let mut query = db.prepare("SELECT hour, served, failed, micros FROM hours WHERE hour > ?1")?;
        let rows = query.query_map([now / HOUR - KEPT], |row| {
            let syncs = Syncs { served: row.get("served")?, failed: row.get("failed")?, micros: row.get("micros")? };
            Ok((row.get("hour")?, Hour { syncs, ..Hour::default() }))
        })?;
        Ok(Hours(Mutex::new(rows.collect::<rusqlite::Result<_>>()?)))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Hour>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, now: Micros, change: impl FnOnce(&mut Syncs)) {
        let mut hours = self.lock();
        let hour = hours.entry(now / HOUR).or_default();
        change(&mut hour.syncs);
        hour.dirty = true;
        while hours.len() as i64 > KEPT {
            hours.pop_first();
        }
    }

    /// A sync was served, in so many microseconds.
    pub fn served(&self, now: Micros, micros: Micros) {
        self.note(now, |syncs| (syncs.served, syncs.micros) = (syncs.served + 1, syncs.micros + micros));
    }

    /// A sync was answered with a problem.
    pub fn failed(&self, now: Micros) {
        self.note(now, |syncs| syncs.failed += 1);
    }

    /// The sums of so many hours up to now, the one that runs among them.
    pub fn last(&self, hours: i64, now: Micros) -> Syncs {
        self.lock().range(now / HOUR - hours + 1..).fold(Syncs::default(), |sum, (_, hour)| Syncs {
            served: sum.served + hour.syncs.served,
            failed: sum.failed + hour.syncs.failed,
            micros: sum.micros + hour.syncs.micros,
        })
    }

    /// Writes what the rows do not know.
    pub fn flush(&self, db: &Connection) -> rusqlite::Result<()> {
        for (no, hour) in self.lock().iter_mut().filter(|(_, hour)| hour.dirty) {
            let Syncs { served, failed, micros } = hour.syncs;
            db.prepare_cached(
                "INSERT INTO hours (hour, served, failed, micros) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT DO UPDATE SET served = excluded.served, failed = excluded.failed, micros = excluded.micros",
            )?
            .execute((no, served, failed, micros))?;
            (hour.dirty, hour.writing) = (false, true);
        }
        Ok(())
    }

    /// What was flushed is durable, or it is gone and has to be written again.
    pub fn end_flush(&self, durable: bool) {
        for hour in self.lock().values_mut().filter(|hour| hour.writing) {
            hour.dirty |= !durable;
            hour.writing = false;
        }
    }
}

/// Removes hours before one.
pub fn purge(db: &Connection, hour: i64) -> rusqlite::Result<usize> {
    db.prepare_cached("DELETE FROM hours WHERE hour < ?1")?.execute([hour])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_fails_loses_nothing_and_nothing_is_written_twice() {
        let directory = tempfile::tempdir().unwrap();
        let db = super::super::connect(&directory.path().join("t.db")).unwrap();
        let hours = Hours::default();
        let commit = |end: &str| {
            db.execute_batch("BEGIN").unwrap();
            hours.flush(&db).unwrap();
            // While the commit is under way another sync is served.
            hours.served(5 * HOUR, 1);
            db.execute_batch(end).unwrap();
            hours.end_flush(end == "COMMIT");
        };
        let rows = || {
            db.query_row("SELECT count(*), total(served), total(failed), total(micros) FROM hours", [], |row| {
                Ok([row.get::<_, f64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
            })
        };
        hours.served(5 * HOUR, 40);
        hours.failed(6 * HOUR - 1);
        commit("ROLLBACK");
        assert_eq!(rows().unwrap(), [0.0; 4]);
        commit("COMMIT");
        assert_eq!(rows().unwrap(), [1.0, 2.0, 1.0, 41.0]);
        commit("COMMIT");
        assert_eq!(rows().unwrap(), [1.0, 3.0, 1.0, 42.0]);
        let again = Hours::load(&db, 6 * HOUR).unwrap();
        let sums = |hours: i64, now: Micros| again.last(hours, now).served;
        assert_eq!((sums(1, 5 * HOUR), sums(1, 6 * HOUR), sums(2, 6 * HOUR)), (3, 0, 3));
    }

    #[test]
    fn memory_holds_a_week() {
        let hours = Hours::default();
        (0..1_000).for_each(|hour| hours.failed(hour * HOUR));
        let kept = hours.lock().len() as i64;
        assert_eq!((kept, hours.last(7 * 24, 999 * HOUR).failed), (KEPT, 7 * 24));
    }
}
