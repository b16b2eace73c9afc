//! The pages that pulls read: several feeds walked together by seq, lazily, each along its own index.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::ControlFlow;

use rusqlite::{CachedStatement, Connection};

use crate::domain::clock::Micros;
use crate::domain::cursor::Seq;

use super::Result;
use super::live::{FeedNo, TableNo};

/// What a page reads: one feed, records or evictions.
#[derive(Debug)]
pub struct Stream {
    /// The feed.
    pub feed: FeedNo,
    /// Its table.
    pub table: TableNo,
    /// Evictions from the feed instead of records in it.
    pub evictions: bool,
    /// Begin after this seq.
    pub after: Seq,
}

/// One thing in a page.
#[derive(Debug)]
pub enum Item<'a> {
    /// A record's present state.
    Record {
        /// Its place.
        seq: Seq,
        /// Its table.
        table: TableNo,
        /// Its row.
        row: RecordRow<'a>,
    },
    /// A record that left a feed.
    Eviction {
        /// Its place.
        seq: Seq,
        /// Its table.
        table: TableNo,
        /// Its id.
        id: String,
    },
}

/// A record as a page gives it, borrowed from SQLite.
#[derive(Debug)]
pub struct RecordRow<'a> {
    /// Its id.
    pub id: &'a [u8],
    /// Its version.
    pub version: i64,
    /// The edit, by the device's clock.
    pub updated_at: Micros,
    /// A tombstone.
    pub deleted: bool,
    /// 2: stored exactly as its device sent it.
    pub fidelity: u8,
    /// Who wrote it.
    pub device: Option<i64>,
    /// Canonical JSON.
    pub data: &'a [u8],
}

/// Seqs fetched from a feed's index at a time.
const CHUNK: usize = 128;
/// And for a first look.
const FIRST: usize = 8;

struct Feeding {
    stream: Stream,
    /// Where it was asked to begin.
    began: Seq,
    chunk: VecDeque<(Seq, String)>,
    exhausted: bool,
}

impl Feeding {
    /// The next seq, fetching a chunk of the index when the last one is used up.
    fn peek(&mut self, queries: &mut Queries<'_>, upto: Seq, size: usize) -> rusqlite::Result<Option<Seq>> {
        if self.chunk.is_empty() && !self.exhausted {
            let parameters = (self.stream.feed, self.stream.after, upto, size as i64);
            if self.stream.evictions {
                let rows = queries.evictions.query_map(parameters, |row| Ok((row.get(0)?, row.get(1)?)))?;
                self.chunk = rows.collect::<rusqlite::Result<_>>()?;
            } else {
                let rows = queries.records.query_map(parameters, |row| Ok((row.get(0)?, String::new())))?;
                self.chunk = rows.collect::<rusqlite::Result<_>>()?;
            }
            self.exhausted = self.chunk.len() < size;
            self.stream.after = self.chunk.back().map_or(self.stream.after, |(seq, _)| *seq);
        }
        Ok(self.chunk.front().map(|(seq, _)| *seq))
    }
}

struct Queries<'a> {
    records: CachedStatement<'a>,
    evictions: CachedStatement<'a>,
}

/// The statement that pages walk a feed by: it reads the index alone, one entry for each record that it gives.
pub const FEED_ORDER: &str = "SELECT seq FROM changes WHERE feed = ?1 AND next IS NULL AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4";
const EVICTED: &str = "SELECT seq, id FROM evictions WHERE feed = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?4";
/// The statement that reads one record of a page.
pub const RECORD: &str = "SELECT id, version, updated_at, deleted, fidelity, device, data FROM changes WHERE seq = ?1";

const RECORDS: &str = "SELECT id, version, updated_at, deleted, fidelity, device, data, seq FROM changes WHERE feed = ?1 AND next IS NULL AND seq > ?2 AND seq <= ?3 ORDER BY seq";

fn record_row<'a>(row: &'a rusqlite::Row<'_>) -> rusqlite::Result<RecordRow<'a>> {
    Ok(RecordRow {
        id: row.get_ref(0)?.as_bytes().unwrap_or_default(),
        version: row.get(1)?,
        updated_at: row.get(2)?,
        deleted: row.get(3)?,
        fidelity: row.get(4)?,
        device: row.get(5)?,
        data: row.get_ref(6)?.as_bytes().unwrap_or_default(),
    })
}

/// One record by its place.
pub fn record(db: &Connection, seq: Seq, take: impl FnOnce(RecordRow<'_>)) -> Result<()> {
    let mut query = db.prepare_cached(RECORD)?;
    let mut rows = query.query([seq])?;
    if let Some(row) = rows.next()? {
        take(record_row(row)?);
    }
    Ok(())
}

/// Walks several feeds together in seq order up to and including `upto`, lazily, until the callback has enough.
pub fn page(
    db: &Connection,
    streams: Vec<Stream>,
    upto: Seq,
    wanted: usize,
    mut take: impl FnMut(Item<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let mut queries = Queries { records: db.prepare_cached(FEED_ORDER)?, evictions: db.prepare_cached(EVICTED)? };
    let mut record = db.prepare_cached(RECORD)?;
    let size = CHUNK.min(wanted + 1);
    let mut feeding: Vec<Feeding> =
        streams.into_iter().map(|stream| Feeding { began: stream.after, stream, chunk: VecDeque::new(), exhausted: false }).collect();
    let mut heap = BinaryHeap::with_capacity(feeding.len());
    for (place, feed) in feeding.iter_mut().enumerate() {
        if let Some(seq) = feed.peek(&mut queries, upto, FIRST.min(size))? {
            heap.push(Reverse((seq, place)));
        }
    }
    // Most often one feed alone has something: it is read in one go.
    if let [Reverse((_, place))] = heap.as_slice()
        && !feeding[*place].stream.evictions
    {
        let stream = &feeding[*place];
        let mut select = db.prepare_cached(RECORDS)?;
        let mut rows = select.query((stream.stream.feed, stream.began, upto))?;
        while let Some(row) = rows.next()? {
            if take(Item::Record { seq: row.get(7)?, table: stream.stream.table, row: record_row(row)? })?.is_break() {
                break;
            }
        }
        return Ok(());
    }
    while let Some(Reverse((seq, place))) = heap.pop() {
        let feed = &mut feeding[place];
        let (table, id) = (feed.stream.table, feed.chunk.pop_front().map(|(_, id)| id).unwrap_or_default());
        let flow = if feed.stream.evictions {
            take(Item::Eviction { seq, table, id })?
        } else {
            let mut rows = record.query([seq])?;
            let Some(row) = rows.next()? else { continue };
            take(Item::Record { seq, table, row: record_row(row)? })?
        };
        if flow.is_break() {
            return Ok(());
        }
        if let Some(seq) = feeding[place].peek(&mut queries, upto, size)? {
            heap.push(Reverse((seq, place)));
        }
    }
    Ok(())
}
