//! What a verify reads: the live records of a feed without their content, and whether a feed has moved on.

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension};

use crate::domain::cursor::Seq;
use crate::domain::record::Hash;

use super::live::{FeedNo, TableNo};
use super::{Result, meta, records};

/// A live record, its content aside.
#[derive(Debug)]
pub struct Row<'a> {
    /// Its place.
    pub seq: Seq,
    /// Its id.
    pub id: &'a str,
    /// Its version.
    pub version: i64,
    /// Its content's hash.
    pub hash: Hash,
}

/// The feeds of a table: those of these scope values, or all. Read here and not from memory, so that they belong to the same
/// moment as the records.
pub fn feeds(db: &Connection, table: TableNo, scopes: Option<&[&str]>) -> Result<Vec<FeedNo>> {
    let Some(scopes) = scopes else {
        let mut query = db.prepare_cached("SELECT no FROM feeds WHERE tbl = ?1")?;
        let feeds = query.query_map([table], |row| row.get(0))?.collect::<rusqlite::Result<_>>();
        return Ok(feeds?);
    };
    let mut query = db.prepare_cached("SELECT no FROM feeds WHERE tbl = ?1 AND scope = ?2")?;
    let mut feeds = Vec::with_capacity(scopes.len());
    for scope in scopes {
        feeds.extend(query.query_row((table, scope), |row| row.get::<_, FeedNo>(0)).optional()?);
    }
    Ok(feeds)
}

/// The statement that a feed's live records are counted by. A row's content stands behind all that it reads.
pub const LIVE: &str =
    "SELECT seq, id, version, hash FROM changes INDEXED BY feed_order WHERE feed = ?1 AND next IS NULL AND deleted = 0 ORDER BY seq";

/// Walks a feed's live records for as long as the callback wants more.
pub fn each_live(db: &Connection, feed: FeedNo, mut take: impl FnMut(Row<'_>) -> ControlFlow<()>) -> Result<ControlFlow<()>> {
    let mut query = db.prepare_cached(LIVE)?;
    let mut rows = query.query([feed])?;
    while let Some(row) = rows.next()? {
        let id = row.get_ref(1)?.as_str().unwrap_or_default();
        let found = Row { seq: row.get(0)?, id, version: row.get(2)?, hash: Hash(row.get(3)?) };
        if take(found).is_break() {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// Has anything come to a feed or left it after a seq?
pub fn moved_on(db: &Connection, feed: FeedNo, after: Seq) -> Result<bool> {
    let mut query = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM changes WHERE feed = ?1 AND next IS NULL AND seq > ?2)
             OR EXISTS (SELECT 1 FROM evictions WHERE feed = ?1 AND seq > ?2)",
    )?;
    Ok(query.query_row((feed, after), |row| row.get(0))?)
}

/// The newest seq that was given out; its change may have been purged.
pub fn head(db: &Connection) -> Result<Seq> {
    Ok(records::newest(db)?.max(meta::floor(db)?))
}
