//! Conflicts, each with both sides, the rule and who was involved.

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use crate::domain::clock::Micros;
use crate::domain::cursor::Seq;
use crate::domain::record::Hash;

use super::live::{FeedNo, TableNo};

/// One conflict as it is stored.
#[derive(Debug, Clone)]
pub struct Conflict {
    /// UUIDv7.
    pub id: String,
    /// The record's table.
    pub table: TableNo,
    /// The record's id.
    pub record: String,
    /// The record's feed when it was recorded.
    pub feed: FeedNo,
    /// The device whose change it is.
    pub device: Option<i64>,
    /// The author of the change.
    pub user: i64,
    /// The author's role.
    pub role: String,
    /// Identity of the operation.
    pub op: Hash,
    /// The operation, as the client named it.
    pub op_id: Option<String>,
    /// The table's rule.
    pub rule: String,
    /// `client`, `server`, `merged` or `none`.
    pub winner: String,
    /// A word of [`crate::domain::decide::Why`].
    pub why: String,
    /// More about why, for a person.
    pub detail: Option<String>,
    /// `use_client`, `use_server` or `use_merged`.
    pub suggest: String,
    /// A word of [`crate::domain::decide::Because`].
    pub because: Option<String>,
    /// The record that is suggested, where it is neither side's.
    pub merged: Option<String>,
    /// JSON array of paths.
    pub fields: String,
    /// JSON array of who won each of them.
    pub winners: Option<String>,
    /// `open` or `resolved`.
    pub status: String,
    /// What the edit began from, where known: canonical JSON.
    pub base: Option<String>,
    /// The server's content before.
    pub server: Option<String>,
    /// Id of the server's record, where it is another one.
    pub server_id: Option<String>,
    /// The server's version before; 0 for none.
    pub server_version: i64,
    /// The server's record was a tombstone.
    pub server_deleted: bool,
    /// The server's edit, by its device's clock.
    pub server_updated_at: Micros,
    /// The server's side: user, device, role, and its edit, corrected.
    pub server_author: Option<Author>,
    /// The content sent; `None` for a delete.
    pub client: Option<String>,
    /// The edit, by the device's clock.
    pub updated_at: Micros,
    /// The edit, corrected.
    pub edited_at: Micros,
    /// The record's version after the decision.
    pub version: i64,
    /// The head after it.
    pub seq: Seq,
    /// When it was recorded.
    pub created_at: Micros,
    /// What a person made of it.
    pub resolved: Option<Resolved>,
}

/// Who stands on the server's side.
#[derive(Debug, Clone)]
pub struct Author {
    /// The user's number.
    pub user: i64,
    /// The device's number, unless a person decided.
    pub device: Option<i64>,
    /// The role then.
    pub role: String,
    /// The edit, corrected.
    pub edited_at: Micros,
}

/// What a person made of a conflict.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// `use_client`, `use_server` or `use_merged`.
    pub resolution: String,
    /// The user's number.
    pub by: i64,
    /// When.
    pub at: Micros,
    /// The record's version after it.
    pub version: i64,
    /// It took an earlier decision back.
    pub reverted: bool,
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Conflict> {
    Ok(Conflict {
        id: row.get("id")?,
        table: row.get("tbl")?,
        record: row.get("record")?,
        feed: row.get("feed")?,
        device: row.get("device")?,
        user: row.get("user")?,
        role: row.get("role")?,
        op: Hash(row.get("op")?),
        op_id: row.get("op_id")?,
        rule: row.get("rule")?,
        winner: row.get("winner")?,
        why: row.get("why")?,
        detail: row.get("detail")?,
        suggest: row.get("suggest")?,
        because: row.get("because")?,
        merged: row.get("merged")?,
        fields: row.get("fields")?,
        winners: row.get("winners")?,
        status: row.get("status")?,
        base: row.get("base")?,
        server: row.get("server")?,
        server_id: row.get("server_id")?,
        server_version: row.get("server_version")?,
        server_deleted: row.get("server_deleted")?,
        server_updated_at: row.get("server_updated_at")?,
        server_author: match row.get("server_user")? {
            Some(user) => Some(Author {
                user,
                device: row.get("server_device")?,
                role: row.get("server_role")?,
                edited_at: row.get("server_edited_at")?,
            }),
            None => None,
        },
        client: row.get("client")?,
        updated_at: row.get("updated_at")?,
        edited_at: row.get("edited_at")?,
        version: row.get("version")?,
        seq: row.get("seq")?,
        created_at: row.get("created_at")?,
        resolved: match row.get("resolution")? {
            Some(resolution) => Some(Resolved {
                resolution,
                by: row.get("resolved_by")?,
                at: row.get("resolved_at")?,
                version: row.get("resolved_version")?,
                reverted: row.get("reverted")?,
            }),
            None => None,
        },
    })
}

/// A conflict with the names of those who were involved.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The conflict.
    pub conflict: Conflict,
    /// The change asked for a delete.
    pub deletes: bool,
    /// The scope's value of its feed.
    pub scope: String,
    /// The author of the change.
    pub user: String,
    /// The device of the change: its id and name.
    pub device: Option<(String, String)>,
    /// The author of the server's side.
    pub server_user: Option<String>,
    /// The device of the server's side: its id and name.
    pub server_device: Option<(String, String)>,
    /// Who resolved it.
    pub resolved_by: Option<String>,
}

/// Conflicts to be listed.
#[derive(Debug, Clone)]
pub enum Of {
    /// All.
    All,
    /// Those of a table.
    Table(TableNo),
    /// Those of a record.
    Record(TableNo, String),
    /// Those of a user's changes.
    User(i64),
    /// Those of a feed.
    Feed(FeedNo),
}

macro_rules! entry {
    ($contents:literal, $rest:expr) => {
        concat!(
            "SELECT k.id, k.tbl, k.record, k.feed, k.device, k.user, k.role, k.op, k.op_id, k.rule, k.winner, k.why, k.detail, k.suggest,
                    k.because, k.fields, k.winners, k.status, k.server_id, k.server_version, k.server_deleted, k.server_updated_at,
                    k.server_user, k.server_device, k.server_role, k.server_edited_at, k.updated_at, k.edited_at, k.version, k.seq,
                    k.created_at, k.resolution, k.resolved_by, k.resolved_at, k.resolved_version, k.reverted,
                    k.client IS NULL AS deletes, ",
            $contents,
            ", f.scope, u.name AS user_name, d.id AS device_id, d.name AS device_name, su.name AS server_user_name,
                    sd.id AS server_device_id, sd.name AS server_device_name, r.name AS resolved_by_name
             FROM conflicts k",
            $rest,
        )
    };
}

/// Whoever is named in a conflict, each by one look-up.
macro_rules! named {
    ($index:literal, $rest:expr) => {
        concat!(
            $index,
            " CROSS JOIN feeds f ON f.no = k.feed CROSS JOIN users u ON u.no = k.user LEFT JOIN devices d ON d.no = k.device
              LEFT JOIN users su ON su.no = k.server_user LEFT JOIN devices sd ON sd.no = k.server_device
              LEFT JOIN users r ON r.no = k.resolved_by WHERE ",
            $rest
        )
    };
}

/// A list's statement: without contents, newest first, along an index.
macro_rules! listed {
    ($index:literal, $rest:literal) => {
        entry!(
            "NULL AS base, NULL AS server, NULL AS client, NULL AS merged",
            named!($index, concat!($rest, "k.status = ?1 AND k.id < ?2 ORDER BY k.id DESC"))
        )
    };
}

fn entry_from_row(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let pair = |id: &str, name: &str| -> rusqlite::Result<Option<(String, String)>> {
        Ok(row.get::<_, Option<String>>(id)?.zip(row.get::<_, Option<String>>(name)?))
    };
    Ok(Entry {
        conflict: from_row(row)?,
        deletes: row.get("deletes")?,
        scope: row.get("scope")?,
        user: row.get("user_name")?,
        device: pair("device_id", "device_name")?,
        server_user: row.get("server_user_name")?,
        server_device: pair("server_device_id", "server_device_name")?,
        resolved_by: row.get("resolved_by_name")?,
    })
}

/// Gives open or resolved conflicts, newest first, from the one before an id on, until the callback has enough. Contents are
/// left out.
pub fn list(
    db: &Connection,
    of: &Of,
    open: bool,
    after: Option<&str>,
    mut take: impl FnMut(Entry) -> super::Result<ControlFlow<()>>,
) -> super::Result<()> {
    // Behind every id.
    let (status, after) = (if open { "open" } else { "resolved" }, after.unwrap_or("~"));
    let mut query = db.prepare_cached(match of {
        Of::All => listed!(" INDEXED BY conflicts_by_status", ""),
        Of::Table(_) => listed!(" INDEXED BY conflicts_of_table", "k.tbl = ?3 AND "),
        Of::Record(..) => listed!(" INDEXED BY conflicts_of_record", "k.tbl = ?3 AND k.record = ?4 AND "),
        Of::User(_) => listed!(" INDEXED BY conflicts_of_user", "k.user = ?3 AND "),
        Of::Feed(_) => listed!(" INDEXED BY conflicts_of_feed", "k.feed = ?3 AND "),
    })?;
    let mut rows = match of {
        Of::All => query.query((status, after))?,
        Of::Table(no) | Of::User(no) | Of::Feed(no) => query.query((status, after, no))?,
        Of::Record(table, record) => query.query((status, after, table, record))?,
    };
    while let Some(row) = rows.next()? {
        if take(entry_from_row(row)?)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// One conflict with its contents and names.
pub fn entry(db: &Connection, id: &str) -> rusqlite::Result<Option<Entry>> {
    db.prepare_cached(entry!("k.base, k.server, k.client, k.merged", named!("", "k.id = ?1")))?.query_row([id], entry_from_row).optional()
}

/// Closes a conflict by a person's word.
pub fn close(db: &Connection, id: &str, resolved: &Resolved) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE conflicts SET status = 'resolved', resolution = ?2, resolved_by = ?3, resolved_at = ?4, resolved_version = ?5, reverted = ?6
         WHERE id = ?1",
    )?
    .execute((id, &resolved.resolution, resolved.by, resolved.at, resolved.version, resolved.reverted))?;
    Ok(())
}

/// Records a conflict. `server`: the seq of the version that stands on the server's side, for its author.
pub fn write(db: &Connection, conflict: &Conflict, server: Option<Seq>) -> rusqlite::Result<()> {
    db.prepare_cached(include_str!("conflicts_write.sql"))?.execute(named_params! {
        ":id": conflict.id, ":tbl": conflict.table, ":record": conflict.record, ":feed": conflict.feed, ":device": conflict.device,
        ":user": conflict.user, ":role": conflict.role, ":op": conflict.op.0, ":op_id": conflict.op_id, ":rule": conflict.rule,
        ":winner": conflict.winner, ":why": conflict.why, ":detail": conflict.detail, ":suggest": conflict.suggest,
        ":because": conflict.because, ":merged": conflict.merged, ":fields": conflict.fields, ":winners": conflict.winners,
        ":status": conflict.status, ":base": conflict.base, ":server": conflict.server, ":server_id": conflict.server_id,
        ":server_version": conflict.server_version, ":server_deleted": conflict.server_deleted,
        ":server_updated_at": conflict.server_updated_at, ":client": conflict.client, ":updated_at": conflict.updated_at,
        ":edited_at": conflict.edited_at, ":version": conflict.version, ":seq": conflict.seq, ":created_at": conflict.created_at, ":server_seq": server,
    })?;
    Ok(())
}

/// One conflict.
pub fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Conflict>> {
    db.prepare_cached("SELECT * FROM conflicts WHERE id = ?1")?.query_row([id], from_row).optional()
}

/// The conflict that an operation led to.
pub fn of_op(db: &Connection, device: i64, op: Hash) -> rusqlite::Result<Option<Conflict>> {
    db.prepare_cached("SELECT * FROM conflicts WHERE device = ?1 AND op = ?2 LIMIT 1")?.query_row((device, op.0), from_row).optional()
}

/// A device's own open conflict on a record, which its later changes join.
pub fn open_of(db: &Connection, table: TableNo, record: &str, device: i64) -> rusqlite::Result<Option<Conflict>> {
    db.prepare_cached("SELECT * FROM conflicts WHERE tbl = ?1 AND record = ?2 AND device = ?3 AND status = 'open' LIMIT 1")?
        .query_row((table, record, device), from_row)
        .optional()
}

/// Lets a later change of the same device join an open conflict: base of the first, content of the last.
pub fn join(db: &Connection, id: &str, later: &Conflict) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE conflicts SET client = :client, fields = :fields, winners = :winners, updated_at = :updated_at, edited_at = :edited_at,
           version = :version, seq = :seq, why = :why, detail = :detail, suggest = :suggest, because = :because, merged = :merged, server = :server, server_version = :server_version, server_deleted = :server_deleted, server_updated_at = :server_updated_at
         WHERE id = :id",
    )?
    .execute(named_params! {
        ":id": id, ":client": later.client, ":fields": later.fields, ":winners": later.winners, ":detail": later.detail,
        ":suggest": later.suggest, ":because": later.because, ":merged": later.merged, ":updated_at": later.updated_at, ":edited_at": later.edited_at,
        ":version": later.version, ":seq": later.seq, ":why": later.why, ":server": later.server, ":server_version": later.server_version,
        ":server_deleted": later.server_deleted, ":server_updated_at": later.server_updated_at,
    })?;
    Ok(())
}

/// Open conflicts for each feed.
pub fn open_by_feed(db: &Connection) -> rusqlite::Result<std::collections::HashMap<FeedNo, i64>> {
    db.prepare_cached("SELECT feed, count(*) FROM conflicts INDEXED BY conflicts_of_feed WHERE status = 'open' GROUP BY feed")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Open conflicts for each device.
pub fn open_by_device(db: &Connection) -> rusqlite::Result<std::collections::HashMap<i64, i64>> {
    db.prepare_cached("SELECT device, count(*) FROM conflicts WHERE status = 'open' AND device IS NOT NULL GROUP BY device")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

/// Looks at no more than `limit` old closed conflicts after an id, which moves on, and removes them. One whose device has not
/// synced after it stays, since a retry is answered with it; up to `in_any_case` they go. One that a person closed is as old as
/// that. `true`: that was the last.
pub fn purge(db: &Connection, before: Micros, in_any_case: Seq, limit: usize, after: &mut String) -> rusqlite::Result<(usize, bool)> {
    // UUIDv7 begins with the milliseconds of its time, so the index on (status, id) is also one on time.
    let bound = format!("{:012x}", (before / 1_000).max(0));
    let bound = format!("{}-{}", &bound[..8], &bound[8..]);
    let found: Vec<(String, bool)> = db
        .prepare_cached(
            "SELECT k.id, coalesce(k.resolved_at < ?5, 1)
                    AND (d.no IS NULL OR d.revoked_at IS NOT NULL OR (d.cursor >= k.seq AND d.pulled_at > k.created_at) OR k.seq <= ?3)
             FROM conflicts k INDEXED BY conflicts_by_status LEFT JOIN devices d ON d.no = k.device
             WHERE k.status = 'resolved' AND k.id > ?1 AND k.id < ?2 ORDER BY k.id LIMIT ?4",
        )?
        .query_map((after.as_str(), bound, in_any_case, limit as i64, before), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut removed = 0;
    for (id, _) in found.iter().filter(|(_, old)| *old) {
        removed += db.prepare_cached("DELETE FROM conflicts WHERE id = ?1")?.execute([id])?;
    }
    if let Some((id, _)) = found.last() {
        after.clone_from(id);
    }
    Ok((removed, found.len() < limit))
}
