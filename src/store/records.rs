//! Records: their present state and their versions.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::domain::actor::Role;
use crate::domain::change::Op;
use crate::domain::clock::Micros;
use crate::domain::cursor::Seq;
use crate::domain::decide::Version;
use crate::domain::limits;
use crate::domain::record::{Content, Hash};

use super::commits::{Change, Event, Operation, Place};
use super::ledger::Ledger;
use super::live::{Delta, FeedNo, TableNo};
use super::{Result, meta};

/// A stored version with what the database knows beside it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What decisions are made of. `own` is set for the device that was named in the look-up.
    pub version: Version,
    /// Its feed.
    pub feed: FeedNo,
    /// Identity of the operation that made it.
    pub op: Hash,
    /// Hash of what that operation said.
    pub body: Hash,
    /// 2: stored exactly as sent; 1: the scope was filled in; 0: merged; 3: a script derived fields.
    pub fidelity: u8,
    /// What was sent, where fidelity is 0 or 3.
    pub sent: Option<String>,
    /// The version before.
    pub previous: Option<Seq>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT c.seq, c.feed, c.id, c.version, c.device, c.role, c.op, c.body, c.updated_at, c.edited_at, c.received_at, c.hash,
                    c.deleted, c.fidelity, c.previous, c.sent, c.data, f.scope, f.tbl",
            $rest
        )
    };
}

/// The statement that finds a record. Hidden and absent ids are told apart by nothing but its result.
pub const HEAD: &str =
    select!(" FROM heads h JOIN changes c ON c.seq = h.seq JOIN feeds f ON f.no = c.feed WHERE h.tbl = ?1 AND h.id = ?2");
const AT: &str = select!(" FROM changes c JOIN feeds f ON f.no = c.feed WHERE c.seq = ?1");
const BY_OP: &str = select!(" FROM changes c JOIN feeds f ON f.no = c.feed WHERE c.named = 1 AND c.device = ?1 AND c.op = ?2");
const ENTRY: &str = select!(
    ", c.rule, u.name AS user_name, d.id AS device_id, d.name AS device_name,
       CASE WHEN c.device IS NULL
         THEN (SELECT k.id FROM conflicts k WHERE k.tbl = f.tbl AND k.record = c.id AND k.resolved_version = c.version
                 AND c.rule <> 'restore' AND (k.resolution <> 'use_server' OR k.reverted = 1) LIMIT 1)
         ELSE (SELECT k.id FROM conflicts k WHERE k.device = c.device AND k.op = c.op LIMIT 1)
       END AS conflict
     FROM changes c JOIN feeds f ON f.no = c.feed JOIN users u ON u.no = c.user LEFT JOIN devices d ON d.no = c.device WHERE c.seq = ?1"
);

fn from_row(row: &Row<'_>, device: Option<i64>) -> rusqlite::Result<Stored> {
    let author: Option<i64> = row.get("device")?;
    let fidelity: u8 = row.get("fidelity")?;
    Ok(Stored {
        version: Version {
            seq: row.get("seq")?,
            version: row.get("version")?,
            deleted: row.get("deleted")?,
            content: Content::trusted(row.get("data")?),
            hash: Hash(row.get("hash")?),
            scope: row.get("scope")?,
            own: author.is_some() && author == device,
            clean: matches!(fidelity, 1 | 2),
            role: Role::parse(row.get_ref("role")?.as_str()?).unwrap_or(Role::Store),
            edited_at: row.get("edited_at")?,
            updated_at: row.get("updated_at")?,
            received_at: row.get("received_at")?,
        },
        feed: row.get("feed")?,
        op: Hash(row.get("op")?),
        body: Hash(row.get("body")?),
        fidelity,
        sent: row.get("sent")?,
        previous: row.get("previous")?,
    })
}

/// A record's id as `heads` has it. A UUID in its usual form (small letters, dashes) is kept as its 16 bytes, in the same
/// order: random ids touch one page of `heads` each, and so there are half as many.
#[derive(Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// A UUID.
    Uuid([u8; 16]),
    /// Any other id.
    Text(&'a str),
}

impl<'a> Key<'a> {
    /// The key of an id.
    pub fn of(id: &'a str) -> Key<'a> {
        let mut bytes = [0; 16];
        let text = id.as_bytes();
        if text.len() != 36 {
            return Key::Text(id);
        }
        let (mut at, mut half) = (0, 0);
        for (place, symbol) in text.iter().enumerate() {
            if matches!(place, 8 | 13 | 18 | 23) {
                if *symbol != b'-' {
                    return Key::Text(id);
                }
                continue;
            }
            let digit = match symbol {
                b'0'..=b'9' => symbol - b'0',
                b'a'..=b'f' => symbol - b'a' + 10,
                _ => return Key::Text(id),
            };
            bytes[at] = (bytes[at] << 4) | digit;
            (at, half) = if half == 1 { (at + 1, 0) } else { (at, 1) };
        }
        Key::Uuid(bytes)
    }
}

impl rusqlite::ToSql for Key<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Key::Uuid(bytes) => ValueRef::Blob(bytes),
            Key::Text(text) => ValueRef::Text(text.as_bytes()),
        }))
    }
}

/// A record's present state, tombstones included. `device` is whose versions count as its own.
pub fn head(db: &Connection, table: TableNo, id: &str, device: Option<i64>) -> Result<Option<Stored>> {
    let mut query = db.prepare_cached(HEAD)?;
    Ok(query.query_row((table, Key::of(id)), |row| from_row(row, device)).optional()?)
}

/// The version at a seq.
pub fn at(db: &Connection, seq: Seq, device: Option<i64>) -> Result<Option<Stored>> {
    let mut query = db.prepare_cached(AT)?;
    Ok(query.query_row([seq], |row| from_row(row, device)).optional()?)
}

/// A version of a record by its number; `head` is the seq of the present one.
pub fn numbered(db: &Connection, head: Seq, version: i64) -> Result<Option<Stored>> {
    let mut query = db.prepare_cached(concat!(
        "WITH RECURSIVE versions (seq, version, previous) AS (
           SELECT seq, version, previous FROM changes WHERE seq = ?1
           UNION ALL
           SELECT c.seq, c.version, c.previous FROM versions v CROSS JOIN changes c ON c.seq = v.previous WHERE v.version > ?2 LIMIT ?3) ",
        select!(" FROM versions v CROSS JOIN changes c ON c.seq = v.seq CROSS JOIN feeds f ON f.no = c.feed WHERE v.version = ?2")
    ))?;
    Ok(query.query_row((head, version, limits::LINEAGE_VERSIONS as i64), |row| from_row(row, None)).optional()?)
}

/// The scope's value of a record as it is now.
pub fn scope(db: &Connection, table: TableNo, id: &str) -> Result<Option<String>> {
    let mut query = db.prepare_cached(
        "SELECT f.scope FROM heads h CROSS JOIN changes c ON c.seq = h.seq CROSS JOIN feeds f ON f.no = c.feed WHERE h.tbl = ?1 AND h.id = ?2",
    )?;
    Ok(query.query_row((table, Key::of(id)), |row| row.get(0)).optional()?)
}

/// The version that a device's named operation made, whatever record that was of.
pub fn by_op(db: &Connection, device: i64, op: Hash) -> Result<Option<(TableNo, String, Stored)>> {
    let mut query = db.prepare_cached(BY_OP)?;
    let found = query.query_row((device, op.0), |row| Ok((row.get("tbl")?, row.get("id")?, from_row(row, Some(device))?)));
    Ok(found.optional()?)
}

/// Is any version of a record, newest first, as asked for (by its scope, device and operation)? One statement, whether there
/// is such a record or not.
pub fn any_version(db: &Connection, table: TableNo, id: &str, wanted: impl Fn(&str, Option<i64>, Hash) -> bool) -> Result<bool> {
    let mut query = db.prepare_cached(
        "WITH RECURSIVE versions (seq) AS (
           SELECT seq FROM heads WHERE tbl = ?1 AND id = ?2
           UNION ALL
           SELECT c.previous FROM versions v CROSS JOIN changes c ON c.seq = v.seq WHERE c.previous IS NOT NULL LIMIT ?3)
         SELECT f.scope, c.device, c.op FROM versions v CROSS JOIN changes c ON c.seq = v.seq CROSS JOIN feeds f ON f.no = c.feed",
    )?;
    let mut rows = query.query((table, Key::of(id), limits::LINEAGE_VERSIONS as i64))?;
    while let Some(row) = rows.next()? {
        if wanted(row.get_ref(0)?.as_str().unwrap_or_default(), row.get(1)?, Hash(row.get(2)?)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A version of a record by its number, looked for from the version at `newest` on down.
pub fn version(db: &Connection, newest: Seq, version: i64) -> Result<Option<Stored>> {
    let mut query = db.prepare_cached(
        "WITH RECURSIVE versions (seq, version, previous) AS (
           SELECT seq, version, previous FROM changes WHERE seq = ?1
           UNION ALL
           SELECT c.seq, c.version, c.previous FROM versions v CROSS JOIN changes c ON c.seq = v.previous
           WHERE v.version > ?2 LIMIT ?3)
         SELECT seq FROM versions WHERE version = ?2",
    )?;
    let found: Option<Seq> = query.query_row((newest, version, limits::LINEAGE_VERSIONS as i64), |row| row.get(0)).optional()?;
    found.map_or(Ok(None), |seq| at(db, seq, None))
}

/// A version to be written.
#[derive(Debug)]
pub struct New<'a> {
    /// The record's table.
    pub table: TableNo,
    /// The record's id.
    pub id: &'a str,
    /// The feed that it goes to.
    pub feed: FeedNo,
    /// The device, unless a person decided.
    pub device: Option<i64>,
    /// The author.
    pub user: i64,
    /// The author's role.
    pub role: Role,
    /// The operation.
    pub op: Op,
    /// The edit, by the device's clock.
    pub updated_at: Micros,
    /// The edit, corrected.
    pub edited_at: Micros,
    /// Hash of the content.
    pub hash: Hash,
    /// A tombstone.
    pub deleted: bool,
    /// 2: exactly as sent; 1: the scope was filled in; 0: merged; 3: a script derived fields.
    pub fidelity: u8,
    /// The rule that decided, where there was a conflict.
    pub rule: Option<&'a str>,
    /// What was sent, where fidelity is 0 or 3.
    pub sent: Option<&'a str>,
    /// The content.
    pub content: &'a Content,
}

/// What a write came to.
#[derive(Debug, Clone, Copy)]
pub struct Written {
    /// Its commit position.
    pub seq: Seq,
    /// Its number within the record.
    pub version: i64,
    /// Its time.
    pub received_at: Micros,
}

/// Writes a new version over the present one.
pub fn write(db: &Connection, ledger: &mut Ledger, new: &New<'_>, current: Option<&Stored>) -> Result<Written> {
    let (seq, received_at) = ledger.next_seq();
    let version = current.map_or(0, |c| c.version.version) + 1;
    let previous = current.map(|c| c.version.seq);
    let edited_at = new.edited_at.min(received_at);
    // By position, not by name: this statement runs for every change, and looking names up costs a tenth of it.
    db.prepare_cached(
        "INSERT INTO changes (seq, feed, id, version, device, user, role, op, body, named, updated_at, edited_at, received_at,
                              hash, deleted, fidelity, previous, rule, sent, data)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
    )?
    .execute(rusqlite::params![
        seq,
        new.feed,
        new.id,
        version,
        new.device,
        new.user,
        new.role.word(),
        new.op.id.0.as_slice(),
        new.op.body.0.as_slice(),
        new.op.named,
        new.updated_at,
        edited_at,
        received_at,
        new.hash.0.as_slice(),
        new.deleted,
        new.fidelity,
        previous,
        new.rule,
        new.sent,
        new.content.text(),
    ])?;
    let mut delta = Delta { head: seq, changes: 1, ..Delta::default() };
    match current {
        None => {
            db.prepare_cached("INSERT INTO heads (tbl, id, seq) VALUES (?1, ?2, ?3)")?.execute((new.table, Key::of(new.id), seq))?;
        }
        Some(current) => {
            db.prepare_cached("UPDATE heads SET seq = ?3 WHERE tbl = ?1 AND id = ?2")?.execute((new.table, Key::of(new.id), seq))?;
            db.prepare_cached("UPDATE changes SET next = ?2 WHERE seq = ?1")?.execute((current.version.seq, seq))?;
            let mut left = Delta::default();
            *(if current.version.deleted { &mut left.tombstones } else { &mut left.records }) -= 1;
            if current.feed != new.feed {
                left.head = seq;
                db.prepare_cached("INSERT INTO evictions (feed, seq, tbl, id) VALUES (?1, ?2, ?3, ?4)")?.execute((
                    current.feed,
                    seq,
                    new.table,
                    new.id,
                ))?;
            }
            ledger.add(current.feed, left);
        }
    }
    *(if new.deleted { &mut delta.tombstones } else { &mut delta.records }) += 1;
    ledger.add(new.feed, delta);
    let operation = match current {
        _ if new.deleted => Operation::Delete,
        Some(current) if !current.version.deleted => Operation::Update,
        _ => Operation::Create,
    };
    let left = current.map(|current| current.feed).filter(|feed| *feed != new.feed);
    let place = Place { table: new.table, feed: new.feed, left, device: new.device };
    ledger.tell(Event::Change(place, Change { id: new.id.into(), operation, version, seq }));
    Ok(Written { seq, version, received_at })
}

/// The hash under which a purged record is remembered.
pub fn grave(table: &str, id: &str) -> Hash {
    Hash::of(format!("{table}/{id}").as_bytes())
}

/// Was the record purged?
pub fn is_purged(db: &Connection, key: Hash) -> Result<bool> {
    Ok(db.prepare_cached("SELECT 1 FROM graves WHERE key = ?1")?.exists([key.0])?)
}

/// Moves every version of a table to the feed that its content names now, where the rules did otherwise before; the caller
/// starts a new generation of views. `true`: there was something to move.
pub fn rescope(db: &Connection, ledger: &mut Ledger, table: TableNo, scope_of: impl Fn(&Content) -> String) -> Result<bool> {
    const CHUNK: usize = 1_000;
    let (mut after, mut any) = (0, false);
    if !db.prepare_cached("SELECT 1 FROM feeds WHERE tbl = ?1")?.exists([table])? {
        return Ok(false);
    }
    loop {
        let rows: Vec<(Seq, FeedNo, bool, bool, String, String, String)> = db
            .prepare_cached(
                "SELECT c.seq, c.feed, c.deleted, c.next IS NULL, c.data, f.scope, c.id FROM changes c JOIN feeds f ON f.no = c.feed
                 WHERE c.seq > ?2 AND f.tbl = ?1 ORDER BY c.seq LIMIT ?3",
            )?
            .query_map((table, after, CHUNK as i64), |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
            })?
            .collect::<rusqlite::Result<_>>()?;
        let Some((last, ..)) = rows.last() else { break };
        after = *last;
        for (seq, old, deleted, present, data, scope, id) in rows {
            let wanted = scope_of(&Content::trusted(data));
            if wanted == scope {
                continue;
            }
            any = true;
            let new = ledger.feed(db, table, &wanted)?;
            db.prepare_cached("UPDATE changes SET feed = ?2 WHERE seq = ?1")?.execute((seq, new))?;
            if present {
                db.prepare_cached("UPDATE conflicts SET feed = ?3 WHERE tbl = ?1 AND record = ?2")?.execute((table, id, new))?;
                let (records, tombstones) = if deleted { (0, 1) } else { (1, 0) };
                ledger.add(old, Delta { records: -records, tombstones: -tombstones, ..Delta::default() });
                ledger.add(new, Delta { head: seq, records, tombstones, ..Delta::default() });
            }
        }
    }
    if any {
        ledger.count_now();
        // Every device starts over, and then hears of no move that was before.
        db.execute("DELETE FROM evictions WHERE tbl = ?1", [table])?;
        // The feeds' rows are counted from what the versions say, and those say something else now.
        ledger.count_now();
    }
    Ok(any)
}

/// The newest seq of which a row is there; 0: there is none.
pub fn newest(db: &Connection) -> Result<Seq> {
    let newest: Option<Seq> = db.prepare_cached("SELECT max(seq) FROM changes")?.query_row([], |row| row.get(0))?;
    Ok(newest.unwrap_or(0))
}

/// The newest seq whose time is not after `time`: a binary search by seq, since both only grow.
pub fn seq_at(db: &Connection, time: Micros) -> Result<Seq> {
    let mut query = db.prepare_cached("SELECT seq, received_at FROM changes WHERE seq >= ?1 ORDER BY seq LIMIT 1")?;
    let (mut low, mut high) = (0, newest(db)?);
    while low < high {
        let middle = low + (high - low + 1) / 2;
        let (seq, at): (Seq, Micros) = query.query_row([middle], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if at <= time { low = seq.max(middle) } else { high = middle - 1 }
    }
    // The newest changes may have been purged; whoever knows a time after that has them behind it.
    let purged_at: Option<Micros> = meta::read(db, meta::FLOOR_TIME)?;
    Ok(if purged_at.is_some_and(|at| at <= time) { low.max(meta::floor(db)?) } else { low })
}

/// Time of a seq, or of the newest one before it that is still there: never a time that a later change has.
pub fn time_of(db: &Connection, seq: Seq) -> Result<Option<Micros>> {
    let mut query = db.prepare_cached("SELECT received_at FROM changes WHERE seq <= ?1 ORDER BY seq DESC LIMIT 1")?;
    Ok(query.query_row([seq], |row| row.get(0)).optional()?)
}

/// One entry of a record's history.
#[derive(Debug)]
pub struct Entry {
    /// The version.
    pub stored: Stored,
    /// Who, by name.
    pub user: String,
    /// On which device, by id.
    pub device: Option<String>,
    /// The device's name.
    pub device_name: Option<String>,
    /// The author's role then.
    pub role: String,
    /// The rule that decided it, or `resolve`, `revert` or `restore`: what a person did.
    pub rule: Option<String>,
    /// The conflict that it came of.
    pub conflict: Option<String>,
}

/// The version at a seq, with its author.
pub fn entry(db: &Connection, seq: Seq) -> Result<Option<Entry>> {
    let mut query = db.prepare_cached(ENTRY)?;
    let found = query.query_row([seq], |row| {
        Ok(Entry {
            stored: from_row(row, None)?,
            user: row.get("user_name")?,
            device: row.get("device_id")?,
            device_name: row.get("device_name")?,
            role: row.get("role")?,
            rule: row.get("rule")?,
            conflict: row.get("conflict")?,
        })
    });
    Ok(found.optional()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usual_form_of_a_uuid_is_packed() {
        let id = "01a1f8e4-9d97-7cbf-afee-8ac7ce1f8294";
        let Key::Uuid(bytes) = Key::of(id) else { panic!("{id} is one") };
        assert_eq!(uuid::Uuid::from_bytes(bytes).to_string(), id);
        for other in [
            "01A1F8E4-9D97-7CBF-AFEE-8AC7CE1F8294",
            "01a1f8e49d977cbfafee8ac7ce1f8294",
            "01a1f8e4-9d97-7cbf-afee-8ac7ce1f829g",
            "x",
            "01a1f8e4-9d97-7cbf-afee8-ac7ce1f8294",
        ] {
            assert_eq!(Key::of(other), Key::Text(other));
        }
    }
}
