//! What the writer keeps in memory and moves in step with the file: the next seq, the last time, the numbers of feeds and
//! tables, and what the running batch adds to each feed.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::Connection;

use crate::domain::clock::Micros;
use crate::domain::cursor::Seq;
use crate::sqlite::writer::State;
use crate::telemetry::metrics::Metrics;

use super::accounts::Accounts;
use super::commits::{Commits, Event};
use super::hours::{HOUR, Hours};
use super::live::{Delta, Feed, FeedNo, Live, TableNo};
use super::{Clock, Result, meta};

/// Counts of feeds are written with a commit, at most this often; a start after a crash counts what came since.
const COUNT_EVERY: Micros = 1_000_000;
/// Devices' last-seen times and reports, and the hours' syncs, are written with a commit, at most this often.
const FLUSH_EVERY: Micros = 10_000_000;

/// What others look at, and the writer moves along with its commits.
#[derive(Debug)]
pub struct Beside {
    /// Heads of feeds.
    pub live: Arc<Live>,
    /// Users and devices.
    pub accounts: Arc<Accounts>,
    /// What commits changed, for the hub.
    pub commits: Arc<Commits>,
    /// Syncs of the last hours.
    pub hours: Arc<Hours>,
    /// Figures since the start.
    pub metrics: Arc<Metrics>,
}

/// The writer's memory.
#[derive(Debug)]
pub struct Ledger {
    clock: Clock,
    beside: Beside,
    head: Seq,
    time: Micros,
    tables: HashMap<Box<str>, TableNo>,
    feeds: HashMap<(TableNo, Box<str>), FeedNo>,
    graves: bool,
    batch: HashMap<FeedNo, Delta>,
    /// What the running batch has to tell.
    events: Vec<Event>,
    counted_at: Micros,
    counting: bool,
    new_feeds: Vec<(TableNo, Box<str>, FeedNo)>,
    new_tables: Vec<Box<str>>,
    job: Job,
    flushed_at: Micros,
    accounts_changed: bool,
    floor: Option<Seq>,
    view: Option<i64>,
    changes_before: u64,
    /// In the running batch.
    jobs: u32,
}

/// What the running job did, so that it can be undone.
#[derive(Debug, Default)]
struct Job {
    deltas: Vec<(FeedNo, Delta)>,
    events: usize,
    feeds: usize,
    tables: usize,
    head: Seq,
    time: Micros,
}

impl Ledger {
    /// Reads it at start.
    pub fn load(db: &Connection, beside: Beside, clock: Clock) -> Result<Ledger> {
        let (head, time, feeds) = {
            let state = beside.live.read();
            let feeds = state.feeds().map(|(no, feed)| ((feed.table, feed.scope.clone()), no)).collect();
            (state.head, state.time, feeds)
        };
        let tables = db
            .prepare("SELECT name, no FROM tables")?
            .query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        let graves = db.query_row("SELECT EXISTS (SELECT 1 FROM graves)", [], |row| row.get(0))?;
        let mut ledger = Ledger {
            clock,
            beside,
            head,
            time,
            tables,
            feeds,
            graves,
            batch: HashMap::new(),
            events: Vec::new(),
            counted_at: 0,
            counting: false,
            new_feeds: Vec::new(),
            new_tables: Vec::new(),
            job: Job::default(),
            flushed_at: 0,
            accounts_changed: false,
            floor: None,
            view: None,
            changes_before: 0,
            jobs: 0,
        };
        ledger.mark();
        Ok(ledger)
    }

    fn mark(&mut self) {
        self.job.deltas.clear();
        self.job.events = self.events.len();
        (self.job.feeds, self.job.tables) = (self.new_feeds.len(), self.new_tables.len());
        (self.job.head, self.job.time) = (self.head, self.time);
    }

    /// The server's clock.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// The newest seq, this transaction included.
    pub fn head(&self) -> Seq {
        self.head
    }

    /// Time of the newest seq.
    pub fn time(&self) -> Micros {
        self.time
    }

    /// Any purged records at all? Spares every create a look-up.
    pub fn graves(&self) -> bool {
        self.graves
    }

    /// Purged records exist from now on.
    pub fn dig(&mut self) {
        self.graves = true;
    }

    /// The next seq and its time, which is later than every time before.
    pub fn next_seq(&mut self) -> (Seq, Micros) {
        self.head += 1;
        self.time = self.clock.now().max(self.time + 1);
        (self.head, self.time)
    }

    /// Adds to a feed when the batch commits.
    pub fn add(&mut self, feed: FeedNo, delta: Delta) {
        self.job.deltas.push((feed, delta));
    }

    /// Tells whoever listens when the batch commits. Gathered also while nobody does: who comes before the commit has a
    /// position without it.
    pub fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Counts are written with this transaction: rows go that a later count would need.
    pub fn count_now(&mut self) {
        self.counting = true;
    }

    /// The floor after this transaction.
    pub fn raise_floor(&mut self, floor: Seq) {
        self.floor = Some(self.floor.unwrap_or(0).max(floor));
    }

    /// The views' generation after this transaction.
    pub fn raise_view(&mut self, view: i64) {
        self.view = Some(view);
    }

    /// Users or devices changed: look at them again after the commit.
    pub fn accounts_changed(&mut self) {
        self.accounts_changed = true;
    }

    /// The number of a table, made on first use.
    pub fn table(&mut self, db: &Connection, name: &str) -> Result<TableNo> {
        if let Some(no) = self.tables.get(name) {
            return Ok(*no);
        }
        db.prepare_cached("INSERT INTO tables (name) VALUES (?1)")?.execute([name])?;
        let no = db.last_insert_rowid();
        self.tables.insert(name.into(), no);
        self.new_tables.push(name.into());
        Ok(no)
    }

    /// The number of a feed, made on first use.
    pub fn feed(&mut self, db: &Connection, table: TableNo, scope: &str) -> Result<FeedNo> {
        let key = (table, Box::from(scope));
        if let Some(no) = self.feeds.get(&key) {
            return Ok(*no);
        }
        let sql = "INSERT INTO feeds (tbl, scope, head, records, tombstones) VALUES (?1, ?2, 0, 0, 0)";
        db.prepare_cached(sql)?.execute((table, scope))?;
        let no = db.last_insert_rowid();
        self.new_feeds.push((table, scope.into(), no));
        self.feeds.insert(key, no);
        Ok(no)
    }

    /// Adds to the feeds' rows what they do not know yet.
    fn count(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut all = self.beside.live.read().uncounted.clone();
        for (feed, delta) in &self.batch {
            all.entry(*feed).or_default().add(delta);
        }
        for (feed, delta) in &all {
            db.prepare_cached("UPDATE feeds SET head = max(head, ?2), records = records + ?3, tombstones = tombstones + ?4 WHERE no = ?1")?
                .execute((feed, delta.head, delta.records, delta.tombstones))?;
            if delta.changes + delta.conflicts > 0 {
                db.prepare_cached(
                    "INSERT INTO activity (hour, feed, changes, conflicts) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT DO UPDATE SET changes = changes + excluded.changes, conflicts = conflicts + excluded.conflicts",
                )?
                .execute((self.time / HOUR, feed, delta.changes, delta.conflicts))?;
            }
        }
        meta::write(db, meta::COUNTED, self.head)
    }

    fn forget(&mut self, feeds: usize, tables: usize) {
        for (table, scope, _) in self.new_feeds.drain(feeds..) {
            self.feeds.remove(&(table, scope));
        }
        for name in self.new_tables.drain(tables..) {
            self.tables.remove(&name);
        }
    }
}

impl State for Ledger {
    fn end_job(&mut self, kept: bool) {
        self.jobs += 1;
        if kept {
            for (feed, delta) in self.job.deltas.drain(..) {
                self.batch.entry(feed).or_default().add(&delta);
            }
        } else {
            (self.head, self.time) = (self.job.head, self.job.time);
            self.events.truncate(self.job.events);
            self.forget(self.job.feeds, self.job.tables);
        }
        self.mark();
    }

    fn before_commit(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let now = self.clock.now();
        let closing = self.batch.is_empty() && self.beside.accounts.is_closing();
        let some = !(self.batch.is_empty() && self.beside.live.read().uncounted.is_empty());
        self.counting = some && (self.counting || closing || now - self.counted_at >= COUNT_EVERY);
        if self.counting {
            self.count(db)?;
            self.counted_at = now;
        }
        // What devices reported waits in memory for a commit that happens anyway: an idle appliance writes nothing.
        if closing || (db.total_changes() != self.changes_before && now - self.flushed_at >= FLUSH_EVERY) {
            self.beside.accounts.flush(db)?;
            self.beside.hours.flush(db)?;
            self.flushed_at = now;
        }
        self.changes_before = db.total_changes();
        if self.accounts_changed {
            self.beside.accounts.reload(db)?;
        }
        Ok(())
    }

    fn end_batch(&mut self, durable: bool) {
        let (batch, events) = (std::mem::take(&mut self.batch), std::mem::take(&mut self.events));
        let (jobs, counted) = (std::mem::take(&mut self.jobs), std::mem::take(&mut self.counting));
        self.beside.hours.end_flush(durable);
        if durable {
            self.beside.metrics.commit_batch.observe(jobs.into());
            let new_feeds = std::mem::take(&mut self.new_feeds);
            self.new_tables.clear();
            let (head, time, floor, view) = (self.head, self.time, self.floor, self.view);
            self.beside.live.update(|state| {
                if counted {
                    state.uncounted.clear();
                }
                for (table, scope, no) in new_feeds {
                    state.insert(no, Feed { table, scope, head: 0, records: 0, tombstones: 0 });
                }
                for (feed, delta) in &batch {
                    state.apply(*feed, delta);
                    if !counted {
                        state.uncounted.entry(*feed).or_default().add(delta);
                    }
                }
                (state.head, state.time) = (head, time);
                state.floor = floor.unwrap_or(state.floor);
                state.view = view.unwrap_or(state.view);
            });
            // After the heads have moved: whoever pulls on a hint finds what it is about.
            self.beside.commits.publish(events);
        } else {
            (self.head, self.time) = {
                let state = self.beside.live.read();
                (state.head, state.time)
            };
            self.forget(0, 0);
            self.beside.accounts.distrust();
        }
        (self.floor, self.view, self.accounts_changed) = (None, None, false);
        self.mark();
    }
}
