//! Keys of tables with `unique`: which live record of a feed holds which.

use rusqlite::{Connection, OptionalExtension};

use crate::domain::record::{Content, Hash};

use super::Result;
use super::live::{FeedNo, TableNo};

/// The live record of a feed that holds a unique key.
pub fn holder(db: &Connection, feed: FeedNo, key: Hash) -> Result<Option<String>> {
    let mut query = db.prepare_cached("SELECT id FROM unique_keys WHERE feed = ?1 AND key = ?2")?;
    Ok(query.query_row((feed, key.0), |row| row.get(0)).optional()?)
}

/// Takes a unique key for a record.
pub fn take(db: &Connection, feed: FeedNo, key: Hash, id: &str) -> Result<()> {
    db.prepare_cached("INSERT INTO unique_keys (feed, key, id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")?.execute((feed, key.0, id))?;
    Ok(())
}

/// Gives a unique key up, if the record holds it.
pub fn free(db: &Connection, feed: FeedNo, key: Hash, id: &str) -> Result<()> {
    db.prepare_cached("DELETE FROM unique_keys WHERE feed = ?1 AND key = ?2 AND id = ?3")?.execute((feed, key.0, id))?;
    Ok(())
}

/// Forgets the unique keys of a table, to be built anew.
pub fn clear(db: &Connection, table: TableNo) -> Result<()> {
    db.execute("DELETE FROM unique_keys WHERE feed IN (SELECT no FROM feeds WHERE tbl = ?1)", [table])?;
    Ok(())
}

/// Calls back for every live record of a table: feed, id, content.
pub fn each_live(db: &Connection, table: TableNo, mut visit: impl FnMut(FeedNo, &str, Content) -> Result<()>) -> Result<()> {
    let mut query = db.prepare(
        "SELECT c.feed, c.id, c.data FROM feeds f JOIN changes c ON c.feed = f.no
         WHERE f.tbl = ?1 AND c.next IS NULL AND c.deleted = 0 ORDER BY c.feed, c.seq",
    )?;
    let mut rows = query.query([table])?;
    while let Some(row) = rows.next()? {
        visit(row.get(0)?, row.get_ref(1)?.as_str().unwrap_or_default(), Content::trusted(row.get(2)?))?;
    }
    Ok(())
}
