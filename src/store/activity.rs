//! Accepted changes and conflicts an hour and feed.

use std::collections::HashMap;

use rusqlite::Connection;

use super::live::FeedNo;

/// Sums since an hour (hours since 1970), for each feed: changes, conflicts.
pub fn since(db: &Connection, hour: i64) -> rusqlite::Result<HashMap<FeedNo, (i64, i64)>> {
    db.prepare_cached("SELECT feed, sum(changes), sum(conflicts) FROM activity WHERE hour >= ?1 GROUP BY feed")?
        .query_map([hour], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?))))?
        .collect()
}

/// Removes hours before one.
pub fn purge(db: &Connection, hour: i64) -> rusqlite::Result<usize> {
    db.prepare_cached("DELETE FROM activity WHERE hour < ?1")?.execute([hour])
}
