//! Answers to operations that left no row in `changes`, so that a retry gets the same one.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::domain::change::Op;
use crate::domain::clock::Micros;
use crate::domain::cursor::Seq;
use crate::domain::decide::Sent;
use crate::domain::record::{Content, Hash};

use super::live::TableNo;

/// A receipt to be written.
#[derive(Debug)]
pub struct Receipt<'a> {
    /// The device's number.
    pub device: i64,
    /// The operation.
    pub op: Op,
    /// The record's table.
    pub table: TableNo,
    /// The record's id.
    pub id: &'a str,
    /// `noop`, `conflict`, `late` or `rejected`.
    pub outcome: &'a str,
    /// The conflict's id.
    pub conflict: Option<&'a str>,
    /// Code and sentence of a rejection.
    pub rejection: Option<(&'a str, &'a str)>,
    /// The content as sent.
    pub sent: Option<&'a str>,
    /// The device's clock at the edit.
    pub updated_at: Micros,
    /// The record's version after it.
    pub version: i64,
    /// The record was then exactly what was sent.
    pub clean: bool,
    /// The head after it.
    pub seq: Seq,
    /// Now.
    pub received_at: Micros,
}

/// A stored answer.
#[derive(Debug)]
pub struct Stored {
    /// Hash of what the operation said.
    pub body: Hash,
    /// `applied`, `merged`, `noop`, `conflict`, `late` or `rejected`.
    pub outcome: String,
    /// The conflict's id.
    pub conflict: Option<String>,
    /// A rejection's code and sentence.
    pub rejection: Option<(String, String)>,
}

/// Writes a receipt.
pub fn write(db: &Connection, receipt: &Receipt<'_>) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO receipts (device, op, body, tbl, id, outcome, conflict, code, detail, sent, updated_at, version, clean, seq, received_at)
         VALUES (:device, :op, :body, :tbl, :id, :outcome, :conflict, :code, :detail, :sent, :updated_at, :version, :clean, :seq, :received_at)",
    )?
    .execute(named_params! {
        ":device": receipt.device, ":op": receipt.op.id.0, ":body": receipt.op.body.0, ":tbl": receipt.table, ":id": receipt.id,
        ":outcome": receipt.outcome, ":conflict": receipt.conflict, ":code": receipt.rejection.map(|r| r.0),
        ":detail": receipt.rejection.map(|r| r.1), ":sent": receipt.sent, ":updated_at": receipt.updated_at,
        ":version": receipt.version, ":clean": receipt.clean, ":seq": receipt.seq, ":received_at": receipt.received_at,
    })?;
    Ok(())
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Stored> {
    let code: Option<String> = row.get("code")?;
    let detail: Option<String> = row.get("detail")?;
    Ok(Stored { body: Hash(row.get("body")?), outcome: row.get("outcome")?, conflict: row.get("conflict")?, rejection: code.zip(detail) })
}

/// The answer that an operation had.
pub fn find(db: &Connection, device: i64, op: Hash) -> rusqlite::Result<Option<Stored>> {
    db.prepare_cached("SELECT body, outcome, conflict, code, detail FROM receipts WHERE device = ?1 AND op = ?2")?
        .query_row((device, op.0), from_row)
        .optional()
}

/// What a device last sent for a record without leaving a row.
pub fn last_sent(db: &Connection, device: i64, table: TableNo, id: &str) -> rusqlite::Result<Option<Sent>> {
    db.prepare_cached(
        "SELECT sent, updated_at, version, seq, clean FROM receipts INDEXED BY receipts_of_record
         WHERE tbl = ?1 AND id = ?2 AND device = ?3 AND outcome IN ('noop', 'conflict') ORDER BY seq DESC, received_at DESC LIMIT 1",
    )?
    .query_row((table, id, device), |row| {
        Ok(Sent {
            content: row.get::<_, Option<String>>("sent")?.map(Content::trusted),
            updated_at: row.get("updated_at")?,
            version: row.get("version")?,
            seq: row.get("seq")?,
            clean: row.get("clean")?,
        })
    })
    .optional()
}
