//! Opening a database file: pragmas, with the reason for each.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{Result, migrate};

/// `application_id` of our files ("BkRm").
pub const APPLICATION_ID: i32 = 0x426b_526d;
/// Page cache of the writer, KiB. Random ids touch many pages of `heads`; more than this buys little (see benches).
pub const WRITER_CACHE_KIB: i64 = 16_384;
/// Page cache of each reader, KiB.
pub const READER_CACHE_KIB: i64 = 2_048;
/// Frames of the write-ahead log after which a commit also checkpoints: 16 MiB of 4 KiB pages.
pub const CHECKPOINT_PAGES: i64 = 4_000;

/// Opens or creates a file for writing: WAL, and a sync of it in every commit, so an answer survives a power cut.
pub fn writer(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(5))?;
    // Before the first pragma that would write into the file.
    migrate::own(&db)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "foreign_keys", true)?;
    db.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    // The log is truncated to this after a checkpoint that a long read had held up.
    db.pragma_update(None, "journal_size_limit", 64 << 20)?;
    db.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    // Savepoints keep their old pages in memory rather than in a file.
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.set_prepared_statement_cache_capacity(128);
    Ok(db)
}

/// Opens an existing file for reading.
pub fn reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "query_only", true)?;
    db.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// SQLite's own look at its file: `ok`, or what is wrong first. `quick` leaves out what compares indexes with their tables.
pub fn check(db: &Connection, quick: bool) -> rusqlite::Result<String> {
    db.query_row(if quick { "PRAGMA quick_check(1)" } else { "PRAGMA integrity_check(1)" }, [], |row| row.get(0))
}
