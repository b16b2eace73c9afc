//! Layer 1: SQLite itself, knowing no table. Opening, migrating, one writer with group commit, several readers.

pub mod migrate;
pub mod open;
pub mod readers;
pub mod writer;

use std::sync::Arc;

/// What can go wrong with the database file. Cloned for every job of a failed batch, hence the `Arc`s.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The disk has no room for a write.
    #[error("the disk is full")]
    Full,
    /// SQLite refused.
    #[error("SQLite: {0}")]
    Sqlite(#[source] Arc<rusqlite::Error>),
    /// A migration failed, or the file is newer than this program.
    #[error("{0}")]
    Schema(String),
    /// A job panicked; its savepoint was rolled back.
    #[error("a database job panicked")]
    Panicked,
    /// The writer or the readers have stopped.
    #[error("the database is closing")]
    Closed,
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode::{DiskFull, SystemIoFailure};
        // ENOSPC reaches us as SQLITE_FULL from page writes and as SQLITE_IOERR_* from growing the shared-memory file.
        const IOERR_SHMSIZE: i32 = 10 | (19 << 8);
        match error.sqlite_error() {
            Some(e) if e.code == DiskFull => Error::Full,
            Some(e) if e.code == SystemIoFailure && e.extended_code == IOERR_SHMSIZE => Error::Full,
            _ => Error::Sqlite(Arc::new(error)),
        }
    }
}

/// Result of a database call.
pub type Result<T> = std::result::Result<T, Error>;
