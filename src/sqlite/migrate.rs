//! Numbered, forward-only migrations. The number of the last one is the file's `user_version`.

use rusqlite::Connection;
use rusqlite_migration::{M, Migrations};

use super::open::APPLICATION_ID;
use super::{Error, Result};

/// The file's schema number; 0 for an empty file.
pub fn version(db: &Connection) -> Result<usize> {
    Ok(db.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))? as usize)
}

/// Refuses a file that another program wrote. Only reads.
pub fn own(db: &Connection) -> Result<()> {
    let owner: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if owner != APPLICATION_ID && (owner != 0 || tables > 0) {
        return Err(Error::Schema("the file is a database of another program".into()));
    }
    Ok(())
}

/// Brings a file up to date. A file that a newer program wrote is refused by name.
pub fn migrate(db: &mut Connection, steps: &[&'static str]) -> Result<()> {
    let found = version(db)?;
    if found > steps.len() {
        return Err(Error::Schema(format!(
            "the database has schema {found}, this program knows {}: it was written by a newer backroom; install that version or restore a backup",
            steps.len()
        )));
    }
    let owner: i32 = db.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if owner == 0 {
        // First: killed after the first table, the file would be nobody's for ever.
        db.pragma_update(None, "application_id", APPLICATION_ID)?;
    }
    let migrations: Vec<M<'_>> = steps.iter().map(|sql| M::up(sql)).collect();
    Migrations::new(migrations).to_latest(db).map_err(|e| match e {
        rusqlite_migration::Error::RusqliteError { err, .. } => err.into(),
        other => Error::Schema(other.to_string()),
    })
}
