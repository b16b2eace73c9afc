//! Who did what: an append-only log.

use rusqlite::Connection;

use crate::domain::clock::Micros;

/// Adds an entry. `detail` is a JSON object without secrets or record contents.
pub fn write(db: &Connection, now: Micros, actor: &str, action: &str, subject: &str, detail: &serde_json::Value) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO audit (at, actor, action, subject, detail) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute((
        now,
        actor,
        action,
        subject,
        detail.to_string(),
    ))?;
    Ok(())
}
