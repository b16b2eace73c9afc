//! What the last commit left: the head of every feed, in memory. An idle pull is answered from here, and a pull that has
//! something to read learns here which feeds to open.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::domain::clock::Micros;
use crate::domain::cursor::{Epoch, Seq};

use super::{Result, meta};

/// Number of a feed in the database.
pub type FeedNo = i64;
/// Number of a table in the database.
pub type TableNo = i64;

/// One feed.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Its table.
    pub table: TableNo,
    /// The scope's value.
    pub scope: Box<str>,
    /// Seq of its newest change or eviction.
    pub head: Seq,
    /// Live records.
    pub records: i64,
    /// Deleted records that are not yet purged.
    pub tombstones: i64,
}

/// What one commit adds to a feed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delta {
    /// Seq of its newest change or eviction.
    pub head: Seq,
    /// Live records more or less.
    pub records: i64,
    /// Tombstones more or less.
    pub tombstones: i64,
    /// Changes accepted.
    pub changes: i64,
    /// Conflicts recorded.
    pub conflicts: i64,
}

impl Delta {
    /// Adds another one.
    pub fn add(&mut self, other: &Delta) {
        self.head = self.head.max(other.head);
        self.records += other.records;
        self.tombstones += other.tombstones;
        self.changes += other.changes;
        self.conflicts += other.conflicts;
    }
}

/// The state of the last commit.
#[derive(Debug)]
pub struct State {
    /// Line of history.
    pub epoch: Epoch,
    /// When it began.
    pub epoch_began: Micros,
    /// Newest seq.
    pub head: Seq,
    /// When that was committed, or when the epoch began.
    pub time: Micros,
    /// Newest purged tombstone or eviction.
    pub floor: Seq,
    /// Generation of the rules' views.
    pub view: i64,
    /// What the rows of the feeds and of their hours do not know yet.
    pub uncounted: HashMap<FeedNo, Delta>,
    feeds: HashMap<FeedNo, Feed>,
    by_name: HashMap<TableNo, HashMap<Box<str>, FeedNo>>,
    by_head: BTreeSet<(Seq, FeedNo)>,
}

/// The state behind a lock that is held for as long as a map look-up takes.
#[derive(Debug)]
pub struct Live(RwLock<State>);

impl Live {
    /// Reads it at start.
    pub fn load(db: &Connection) -> Result<Live> {
        let (epoch, epoch_began) = meta::epoch(db)?;
        let floor = meta::floor(db)?;
        let head: Option<Seq> = db.query_row("SELECT max(seq) FROM changes", [], |row| row.get(0))?;
        let head = head.unwrap_or(0).max(floor);
        let time: Option<Micros> = db.query_row("SELECT received_at FROM changes ORDER BY seq DESC LIMIT 1", [], |row| row.get(0)).ok();
        let mut state = State {
            epoch,
            epoch_began,
            head,
            time: time.unwrap_or(0).max(meta::read(db, meta::FLOOR_TIME)?.unwrap_or(0)).max(epoch_began),
            floor,
            view: meta::read(db, meta::VIEW)?.unwrap_or(1),
            uncounted: HashMap::new(),
            feeds: HashMap::new(),
            by_name: HashMap::new(),
            by_head: BTreeSet::new(),
        };
        let mut query = db.prepare("SELECT no, tbl, scope, head, records, tombstones FROM feeds")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let feed = Feed {
                table: row.get("tbl")?,
                scope: row.get::<_, String>("scope")?.into(),
                head: row.get("head")?,
                records: row.get("records")?,
                tombstones: row.get("tombstones")?,
            };
            state.insert(row.get("no")?, feed);
        }
        let uncounted = uncounted(db)?;
        for (feed, delta) in &uncounted {
            state.apply(*feed, delta);
        }
        state.uncounted = uncounted;
        Ok(Live(RwLock::new(state)))
    }

    /// A look at the last commit.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look at the last commit, which is to be this one or a later one. The writer tells of a commit right after it; `None`:
    /// not within a second.
    pub fn reached(&self, seq: Seq) -> Option<RwLockReadGuard<'_, State>> {
        let began = Instant::now();
        loop {
            let state = self.read();
            if state.head >= seq {
                return Some(state);
            }
            drop(state);
            if began.elapsed() > Duration::from_secs(1) {
                return None;
            }
            std::thread::yield_now();
        }
    }

    /// Changes it; only the writer does.
    pub fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// What the feeds' rows do not know, because the process was killed before it could count. (Conflicts of that second are
/// missing from the day's figure; they are not missing from the inbox.)
fn uncounted(db: &Connection) -> Result<HashMap<FeedNo, Delta>> {
    let mut query = db.prepare(
        "SELECT c.seq, c.feed, c.deleted, p.feed, p.deleted FROM changes c LEFT JOIN changes p ON p.seq = c.previous WHERE c.seq > ?1",
    )?;
    let mut rows = query.query([meta::read::<Seq>(db, meta::COUNTED)?.unwrap_or(0)])?;
    let mut deltas: HashMap<FeedNo, Delta> = HashMap::new();
    while let Some(row) = rows.next()? {
        let (head, feed, left): (Seq, FeedNo, Option<FeedNo>) = (row.get(0)?, row.get(1)?, row.get(3)?);
        let (records, tombstones) = if row.get(2)? { (0, 1) } else { (1, 0) };
        deltas.entry(feed).or_default().add(&Delta { head, records, tombstones, changes: 1, conflicts: 0 });
        if let Some(left) = left {
            let (records, tombstones) = if row.get(4)? { (0, -1) } else { (-1, 0) };
            let head = if left == feed { 0 } else { head };
            deltas.entry(left).or_default().add(&Delta { head, records, tombstones, ..Delta::default() });
        }
    }
    Ok(deltas)
}

impl State {
    /// Adds a feed.
    pub fn insert(&mut self, no: FeedNo, feed: Feed) {
        self.by_name.entry(feed.table).or_default().insert(feed.scope.clone(), no);
        self.by_head.insert((feed.head, no));
        self.feeds.insert(no, feed);
    }

    /// Adds a commit's change to a feed.
    pub fn apply(&mut self, no: FeedNo, delta: &Delta) {
        let Some(feed) = self.feeds.get_mut(&no) else { return };
        if delta.head > feed.head {
            self.by_head.remove(&(feed.head, no));
            feed.head = delta.head;
            self.by_head.insert((feed.head, no));
        }
        feed.records += delta.records;
        feed.tombstones += delta.tombstones;
    }

    /// The feed of a table and scope value.
    pub fn feed(&self, table: TableNo, scope: &str) -> Option<(FeedNo, &Feed)> {
        let no = *self.by_name.get(&table)?.get(scope)?;
        Some((no, self.feeds.get(&no)?))
    }

    /// Seq of a feed's newest change or eviction.
    pub fn head_of(&self, no: FeedNo) -> Seq {
        self.feeds.get(&no).map_or(0, |feed| feed.head)
    }

    /// A feed by its number.
    pub fn numbered(&self, no: FeedNo) -> Option<&Feed> {
        self.feeds.get(&no)
    }

    /// All feeds of a table.
    pub fn feeds_of(&self, table: TableNo) -> impl Iterator<Item = (FeedNo, &Feed)> {
        self.by_name.get(&table).into_iter().flat_map(HashMap::values).filter_map(|no| Some((*no, self.feeds.get(no)?)))
    }

    /// Feeds with something newer than a seq, oldest head first.
    pub fn newer(&self, seq: Seq) -> impl Iterator<Item = (FeedNo, &Feed)> {
        let range = (Bound::Excluded((seq, FeedNo::MAX)), Bound::Unbounded);
        self.by_head.range(range).filter_map(|(_, no)| Some((*no, self.feeds.get(no)?)))
    }

    /// All feeds, with their numbers.
    pub fn feeds(&self) -> impl Iterator<Item = (FeedNo, &Feed)> {
        self.feeds.iter().map(|(no, feed)| (*no, feed))
    }
}
