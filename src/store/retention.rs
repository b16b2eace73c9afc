//! Removing what is old enough: superseded versions, tombstones, eviction marks, receipts, closed conflicts, rejections.
//!
//! Each call removes one slice; the caller repeats until nothing is left, so that the writer is never held up for long.

use rusqlite::Connection;

use crate::domain::clock::Micros;
use crate::domain::cursor::Seq;
use crate::domain::record::Hash;

use super::ledger::Ledger;
use super::live::{Delta, FeedNo, TableNo};
use super::{Result, meta, records};

/// What may go.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Superseded, received or closed before this time.
    pub before: Micros,
    /// Newest seq that was committed before that time.
    pub seq: Seq,
    /// Every active device's cursor has passed this seq.
    pub passed: Seq,
    /// Tombstones and evictions up to this seq go in any case.
    pub in_any_case: Seq,
}

/// How many rows were removed.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Removed {
    /// Superseded versions.
    pub history: usize,
    /// Deleted records.
    pub tombstones: usize,
    /// Marks of records that left a feed.
    pub evictions: usize,
    /// Answers to operations.
    pub receipts: usize,
    /// Closed conflicts.
    pub conflicts: usize,
    /// Refused changes.
    pub rejections: usize,
}

impl Removed {
    /// Adds another slice.
    pub fn add(&mut self, other: &Removed) {
        self.history += other.history;
        self.tombstones += other.tombstones;
        self.evictions += other.evictions;
        self.receipts += other.receipts;
        self.conflicts += other.conflicts;
        self.rejections += other.rejections;
    }

    /// Everything together.
    pub fn total(&self) -> usize {
        self.history + self.tombstones + self.evictions + self.receipts + self.conflicts + self.rejections
    }
}

/// How far a cleanup has come through what it has to look at and may have to leave: answers that a retry may still ask for.
#[derive(Debug, Default)]
pub struct Sweep {
    receipts: (Seq, i64, [u8; 16]),
    conflicts: String,
}

/// Looks at no more than `limit` rows of each kind, and removes what may go. `true`: nothing is left to look at.
pub fn slice(db: &Connection, ledger: &mut Ledger, bounds: &Bounds, limit: usize, sweep: &mut Sweep) -> Result<(Removed, bool)> {
    ledger.count_now();
    let (receipts, last_receipt) = receipts(db, bounds, limit, sweep)?;
    let (conflicts, last_conflict) = super::conflicts::purge(db, bounds.before, bounds.in_any_case, limit, &mut sweep.conflicts)?;
    let removed = Removed {
        history: history(db, bounds, limit)?,
        tombstones: tombstones(db, ledger, bounds, limit)?,
        evictions: evictions(db, ledger, bounds, limit)?,
        receipts,
        conflicts,
        rejections: db
            .prepare_cached("DELETE FROM rejections WHERE no IN (SELECT no FROM rejections WHERE received_at < ?1 LIMIT ?2)")?
            .execute((bounds.before, limit as i64))?,
    };
    Ok((removed, last_receipt && last_conflict && removed.total() == receipts + conflicts))
}

/// A receipt outlives retention until its device has synced after it.
fn receipts(db: &Connection, bounds: &Bounds, limit: usize, sweep: &mut Sweep) -> Result<(usize, bool)> {
    let (seq, device, op) = sweep.receipts;
    let found: Vec<(Seq, i64, [u8; 16], bool)> = db
        .prepare_cached(
            "SELECT r.seq, r.device, r.op, r.received_at < ?5 AND
                    (d.revoked_at IS NOT NULL OR (d.cursor >= r.seq AND ifnull(d.pulled_at > r.received_at, 0)) OR r.seq <= ?6)
             FROM receipts r INDEXED BY receipts_by_seq JOIN devices d ON d.no = r.device
             WHERE (r.seq, r.device, r.op) > (?1, ?2, ?3) AND r.seq <= ?4 ORDER BY r.seq, r.device, r.op LIMIT ?7",
        )?
        .query_map((seq, device, op, bounds.seq, bounds.before, bounds.in_any_case, limit as i64), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut removed = 0;
    for (_, device, op, _) in found.iter().filter(|(.., old)| *old) {
        removed += db.prepare_cached("DELETE FROM receipts WHERE device = ?1 AND op = ?2")?.execute((device, op))?;
    }
    if let Some((seq, device, op, _)) = found.last() {
        sweep.receipts = (*seq, *device, *op);
    }
    Ok((removed, found.len() < limit))
}

/// The answers that versions give to retries, as receipts.
macro_rules! answers {
    () => {
        "INSERT INTO receipts (device, op, body, tbl, id, outcome, conflict, updated_at, version, clean, seq, received_at)
         SELECT c.device, c.op, c.body, f.tbl, c.id, CASE c.fidelity WHEN 0 THEN 'merged' ELSE 'applied' END,
                (SELECT k.id FROM conflicts k WHERE k.device = c.device AND k.op = c.op), c.updated_at, c.version, 0, c.seq, c.received_at"
    };
}

/// Those whose device has not synced after them, and that are not too old in any case.
macro_rules! of_the_unsynced {
    ($in_any_case:literal) => {
        concat!(
            " JOIN feeds f ON f.no = c.feed JOIN devices d ON d.no = c.device WHERE d.revoked_at IS NULL AND d.cursor < c.seq AND c.seq > ",
            $in_any_case
        )
    };
}

/// A superseded version's age counts from when it was superseded. Its operation's receipt stays for as long as its device
/// has not synced after it: a retry may still come.
fn history(db: &Connection, bounds: &Bounds, limit: usize) -> Result<usize> {
    db.prepare_cached(concat!(
        answers!(),
        " FROM (SELECT seq FROM changes WHERE next IS NOT NULL AND next <= ?1 ORDER BY next LIMIT ?2) old JOIN changes c ON c.seq = old.seq",
        of_the_unsynced!("?3"),
        " ON CONFLICT DO NOTHING"
    ))?
    .execute((bounds.seq, limit as i64, bounds.in_any_case))?;
    Ok(db
        .prepare_cached(
            "DELETE FROM changes WHERE seq IN (SELECT seq FROM changes WHERE next IS NOT NULL AND next <= ?1 ORDER BY next LIMIT ?2)",
        )?
        .execute((bounds.seq, limit as i64))?)
}

fn tombstones(db: &Connection, ledger: &mut Ledger, bounds: &Bounds, limit: usize) -> Result<usize> {
    let upto = bounds.seq.min(bounds.passed.max(bounds.in_any_case));
    let old: Vec<(Seq, FeedNo, TableNo, String, String)> = db
        .prepare_cached(
            "SELECT c.seq, c.feed, f.tbl, c.id, t.name FROM changes c INDEXED BY tombstones
             JOIN feeds f ON f.no = c.feed JOIN tables t ON t.no = f.tbl
             WHERE c.deleted = 1 AND c.next IS NULL AND c.seq <= ?1 ORDER BY c.seq LIMIT ?2",
        )?
        .query_map((upto, limit as i64), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (seq, feed, table, id, name) in &old {
        let key: Hash = records::grave(name, id);
        db.prepare_cached("INSERT INTO graves (key) VALUES (?1) ON CONFLICT DO NOTHING")?.execute([key.0])?;
        db.prepare_cached("DELETE FROM heads WHERE tbl = ?1 AND id = ?2")?.execute((table, records::Key::of(id)))?;
        let mut version = Some(*seq);
        while let Some(seq) = version {
            db.prepare_cached(concat!(answers!(), " FROM changes c", of_the_unsynced!("?2"), " AND c.seq = ?1 ON CONFLICT DO NOTHING"))?
                .execute((seq, bounds.in_any_case))?;
            let previous = db.prepare_cached("DELETE FROM changes WHERE seq = ?1 RETURNING previous")?.query_row([seq], |row| row.get(0));
            version = match previous {
                Ok(previous) => previous,
                Err(rusqlite::Error::QueryReturnedNoRows) => None,
                Err(error) => return Err(error.into()),
            };
        }
        ledger.add(*feed, Delta { tombstones: -1, ..Delta::default() });
        ledger.dig();
    }
    if let Some((seq, ..)) = old.last() {
        raise(db, ledger, *seq)?;
    }
    Ok(old.len())
}

fn evictions(db: &Connection, ledger: &mut Ledger, bounds: &Bounds, limit: usize) -> Result<usize> {
    let upto = bounds.seq.min(bounds.passed.max(bounds.in_any_case));
    let old: Vec<(FeedNo, Seq)> = db
        .prepare_cached("SELECT feed, seq FROM evictions INDEXED BY evictions_by_seq WHERE seq <= ?1 ORDER BY seq LIMIT ?2")?
        .query_map((upto, limit as i64), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    for (feed, seq) in &old {
        db.prepare_cached("DELETE FROM evictions WHERE feed = ?1 AND seq = ?2")?.execute((feed, seq))?;
    }
    if let Some((_, seq)) = old.last() {
        raise(db, ledger, *seq)?;
    }
    Ok(old.len())
}

fn raise(db: &Connection, ledger: &mut Ledger, floor: Seq) -> Result<()> {
    if floor > meta::floor(db)? {
        meta::write(db, meta::FLOOR, floor)?;
        // The newest change may itself be purged: neither its seq nor its time is given out again.
        meta::write(db, meta::FLOOR_TIME, ledger.time())?;
        ledger.raise_floor(floor);
    }
    Ok(())
}
