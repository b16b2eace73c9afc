//! Single values of the database: its epoch, floor and generations.

use rusqlite::types::{FromSql, ToSql};
use rusqlite::{Connection, OptionalExtension};

use crate::domain::clock::Micros;
use crate::domain::cursor::{Epoch, Seq};

/// The line of history (random 64 bits).
pub const EPOCH: &str = "epoch";
/// When the epoch began.
pub const EPOCH_BEGAN: &str = "epoch_began";
/// Newest purged tombstone or eviction: a cursor behind it needs a reset.
pub const FLOOR: &str = "floor";
/// Time of the newest change when the floor was last raised.
pub const FLOOR_TIME: &str = "floor_time";
/// Head of the database when the feeds' rows were last counted.
pub const COUNTED: &str = "counted";
/// Raised by every change of users, devices or the pause.
pub const ACCOUNTS: &str = "accounts";
/// Raised when the rules change what a device may see.
pub const VIEW: &str = "view";
/// Fingerprint of the rules that decide views.
pub const VIEW_RULES: &str = "view_rules";
/// Fingerprint of the unique keys that `unique_keys` was built for.
pub const UNIQUE_RULES: &str = "unique_rules";
/// 1: writes are refused.
pub const PAUSED: &str = "paused";
/// SHA-256 of the set-up code, and when it ends.
pub const SETUP: &str = "setup";
/// End of the set-up code's validity.
pub const SETUP_ENDS: &str = "setup_ends";

/// Reads a value.
pub fn read<T: FromSql>(db: &Connection, key: &str) -> rusqlite::Result<Option<T>> {
    db.prepare_cached("SELECT value FROM meta WHERE key = ?1")?.query_row([key], |row| row.get(0)).optional()
}

/// Writes a value.
pub fn write(db: &Connection, key: &str, value: impl ToSql) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value")?
        .execute((key, value))?;
    Ok(())
}

/// Removes a value.
pub fn remove(db: &Connection, key: &str) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM meta WHERE key = ?1")?.execute([key])?;
    Ok(())
}

/// Raises a generation by one.
pub fn raise(db: &Connection, key: &str) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO meta (key, value) VALUES (?1, 1) ON CONFLICT DO UPDATE SET value = value + 1")?.execute([key])?;
    Ok(())
}

/// Gives a new database its epoch.
pub fn begin(db: &Connection, now: Micros) -> rusqlite::Result<()> {
    if read::<i64>(db, EPOCH)?.is_none() {
        let epoch = getrandom::u64().unwrap_or(now as u64);
        write(db, EPOCH_BEGAN, now)?;
        write(db, EPOCH, epoch as i64)?;
    }
    Ok(())
}

/// The epoch and when it began.
pub fn epoch(db: &Connection) -> rusqlite::Result<(Epoch, Micros)> {
    let id: i64 = read(db, EPOCH)?.unwrap_or_default();
    Ok((Epoch(id as u64), read(db, EPOCH_BEGAN)?.unwrap_or_default()))
}

/// Size of the database file, bytes.
pub fn bytes(db: &Connection) -> rusqlite::Result<i64> {
    let pragma = |name| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    Ok(pragma("page_count")? * pragma("page_size")?)
}

/// The tombstone floor.
pub fn floor(db: &Connection) -> rusqlite::Result<Seq> {
    Ok(read(db, FLOOR)?.unwrap_or(0))
}
