//! Refused changes, kept with their reason for the retention time, a bounded number a device.

use rusqlite::{Connection, Row, named_params};

use crate::domain::clock::Micros;
use crate::domain::limits;
use crate::domain::record::Hash;

/// A refused change.
#[derive(Debug)]
pub struct Rejection {
    /// The table, as sent.
    pub table: String,
    /// The record's id, as sent.
    pub record: Option<String>,
    /// The operation's id, as sent.
    pub op_id: Option<String>,
    /// The stable code.
    pub code: String,
    /// The sentence.
    pub detail: String,
    /// The change as sent, at most 64 KiB.
    pub body: String,
    /// How often it was sent.
    pub times: i64,
    /// Last time.
    pub received_at: Micros,
}

/// Keeps one. The same change refused again counts up; the device's oldest make room.
pub fn keep(db: &Connection, device: i64, op: Hash, rejection: &Rejection) -> rusqlite::Result<()> {
    let end = rejection.body.floor_char_boundary(limits::REJECTED_BODY_BYTES);
    db.prepare_cached(
        "INSERT INTO rejections (device, tbl, record, op, op_id, code, detail, body, times, received_at)
         VALUES (:device, :tbl, :record, :op, :op_id, :code, :detail, :body, 1, :now)
         ON CONFLICT (device, op) DO UPDATE SET times = times + 1, received_at = excluded.received_at, code = excluded.code, detail = excluded.detail",
    )?
    .execute(named_params! {
        ":device": device, ":tbl": rejection.table, ":record": rejection.record, ":op": op.0, ":op_id": rejection.op_id,
        ":code": rejection.code, ":detail": rejection.detail, ":body": &rejection.body[..end], ":now": rejection.received_at,
    })?;
    // By number of row: a retry keeps its place, so a loop of retries pushes nothing else out.
    db.prepare_cached(
        "DELETE FROM rejections WHERE device = ?1 AND no <= (SELECT no FROM rejections WHERE device = ?1 ORDER BY no DESC LIMIT 1 OFFSET ?2)",
    )?
    .execute((device, limits::REJECTED_PER_DEVICE as i64))?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Rejection> {
    Ok(Rejection {
        table: row.get("tbl")?,
        record: row.get("record")?,
        op_id: row.get("op_id")?,
        code: row.get("code")?,
        detail: row.get("detail")?,
        body: row.get("body")?,
        times: row.get("times")?,
        received_at: row.get("received_at")?,
    })
}

/// A device's refused changes before a row number, newest first, with their numbers.
pub fn list(db: &Connection, device: i64, before: i64, limit: usize) -> rusqlite::Result<Vec<(i64, Rejection)>> {
    db.prepare_cached("SELECT * FROM rejections WHERE device = ?1 AND no < ?2 ORDER BY no DESC LIMIT ?3")?
        .query_map((device, before, limit as i64), |row| Ok((row.get("no")?, from_row(row)?)))?
        .collect()
}

/// How many are kept, for each device that has any.
pub fn counts(db: &Connection) -> rusqlite::Result<std::collections::HashMap<i64, i64>> {
    db.prepare_cached("SELECT device, count(*) FROM rejections GROUP BY device")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}
