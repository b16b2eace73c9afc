//! Verify: does a device hold what it should? Counts and hashes of what it may see, by table and by bucket, and the records of
//! the buckets that differ.
//!
//! All of an answer is of one moment: one read transaction. It reads no content, the asked records aside.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rusqlite::Connection;

use crate::domain::clock::Micros;
use crate::domain::cursor::{Cursor, Seq};
use crate::domain::limits;
use crate::domain::tally::{self, BUCKETS, Tally};
use crate::protocol;
use crate::protocol::problem::Code;
use crate::protocol::verify::{Verified, VerifyRequest};
use crate::store::accounts::Device;
use crate::store::{self, meta, page, records, verify};

use super::office::Table;
use super::pull::{bad_cursor, fingerprint, selection};
use super::{App, Error, Result, answer, problem};

/// Records between two looks at the time.
const STRIDE: u64 = 256;

/// Serves a verify.
pub async fn verify(app: &App, device: &Arc<Device>, body: Bytes) -> Result<Vec<u8>> {
    within(app, device, body, limits::VERIFY).await
}

/// Serves a verify that may read for so long.
pub async fn within(app: &App, device: &Arc<Device>, body: Bytes, most: Duration) -> Result<Vec<u8>> {
    let request: VerifyRequest =
        protocol::object(&body).map_err(|e| Error::Problem(Code::InvalidRequest, format!("The body is not a verify: {e}.")))?;
    super::devices::same_device(device, request.device_id.as_deref())?;
    let office = app.office();
    let asked = Asked { request, viewer: device.clone(), most: app.limits.page_records };
    let named = asked.named();
    let mut tables = selection(&office, device, Some(&named))?;
    let mut selected = fingerprint(Some(&named));
    if asked.request.tables.is_none() {
        (tables, selected) = (selection(&office, device, None)?, fingerprint(None));
    }
    let cursor = match &asked.request.cursor {
        Some(text) => Some(Cursor::parse(text).ok_or_else(bad_cursor)?),
        None => None,
    };
    let epoch = app.store.live.read().epoch;
    let place = Cursor { epoch, seq: 0, view: office.view + device.view, tables: selected, start: None };
    let now = app.store.clock.now();
    device.activity.note(|seen| seen.seen_at = Some(now));

    let _turn = app.verifying.acquire().await.map_err(|_| Error::Store(store::Error::Closed))?;
    // Dropped with this call, so that nothing is read for a caller who has gone.
    let waits = Arc::new(());
    let caller = Arc::downgrade(&waits);
    let answer = app
        .store
        .readers
        .run(move |db| {
            let began = Instant::now();
            let rules = office.view;
            read(db, &asked, &tables, cursor, place, rules, || caller.strong_count() > 0 && began.elapsed() < most)
        })
        .await?;
    drop(waits);
    match answer {
        Some(answer) => Ok(answer.write()),
        None => problem(Code::Unavailable, "There are more records than can be read in one go. Try again, with fewer tables at a time."),
    }
}

/// A request, and who asks.
#[derive(Debug)]
struct Asked {
    request: VerifyRequest,
    viewer: Arc<Device>,
    /// Records that an answer may hold.
    most: usize,
}

impl Asked {
    /// The tables that it names. To ask for buckets or records of a table is to name it.
    fn named(&self) -> Vec<&str> {
        let mut names: BTreeSet<&str> = self.request.tables.iter().flat_map(BTreeMap::keys).map(String::as_str).collect();
        names.extend(self.request.buckets.iter().flatten().map(String::as_str));
        names.extend(self.request.records.iter().flat_map(BTreeMap::keys).map(String::as_str));
        names.into_iter().collect()
    }

    fn wants_buckets(&self, table: &str) -> bool {
        self.request.buckets.iter().flatten().any(|name| name == table)
    }

    /// What the device says that it holds.
    fn own(&self, table: &str) -> Option<Tally> {
        *self.request.tables.as_ref()?.get(table)?
    }
}

/// What came of reading.
#[derive(Debug)]
struct Answer {
    time: Micros,
    place: Cursor,
    current: Option<bool>,
    tables: BTreeMap<String, Verified>,
    /// The records by table and bucket, JSON, where any were asked for.
    records: Option<Vec<u8>>,
    more: bool,
}

impl Answer {
    /// Writes the body.
    fn write(&self) -> Vec<u8> {
        let mut out = b"{\"success\":true,\"timestamp\":".to_vec();
        answer::time(&mut out, self.time);
        out.extend_from_slice(b",\"cursor\":");
        answer::string(&mut out, &self.place.text());
        let rest = serde_json::json!({ "current": self.current, "tables": self.tables, "has_more": self.more }).to_string();
        out.push(b',');
        out.extend_from_slice(&rest.as_bytes()[1..rest.len() - 1]);
        if let Some(records) = &self.records {
            out.extend_from_slice(b",\"records\":");
            out.extend_from_slice(records);
        }
        out.push(b'}');
        out
    }
}

/// Where the records of the asked buckets are: those that come first, as far as they fit.
#[derive(Debug)]
struct Wanted {
    /// By the table's place and the bucket.
    buckets: BTreeMap<(usize, u8), Vec<Seq>>,
    count: usize,
    most: usize,
    /// Some did not fit.
    more: bool,
}

impl Wanted {
    fn new(asked: &Asked, tables: &[Arc<Table>]) -> Wanted {
        let of = |table: &Table| asked.request.records.as_ref().and_then(|records| records.get(table.name.as_str()));
        let all = tables.iter().enumerate().flat_map(|(place, table)| of(table).into_iter().flatten().map(move |bucket| (place, *bucket)));
        Wanted { buckets: all.map(|bucket| (bucket, Vec::new())).collect(), count: 0, most: asked.most, more: false }
    }

    fn note(&mut self, table: usize, bucket: u8, seq: Seq) {
        let Some(places) = self.buckets.get_mut(&(table, bucket)) else { return };
        places.push(seq);
        self.count += 1;
        while self.count > self.most && self.buckets.len() > 1 {
            self.count -= self.buckets.pop_last().map_or(0, |(_, places)| places.len());
            self.more = true;
        }
    }

    /// Reads the records; `None`: it was told to stop.
    fn read(&mut self, db: &Connection, tables: &[Arc<Table>], mut go_on: impl FnMut() -> bool) -> store::Result<Option<Vec<u8>>> {
        let (mut out, mut open) = (b"{".to_vec(), None);
        for ((table, bucket), places) in &self.buckets {
            let (before, first) = (out.len(), open.is_none());
            if open != Some(*table) {
                out.extend_from_slice(if first { b"" } else { b"}," });
                answer::string(&mut out, tables[*table].name.as_str());
                out.extend_from_slice(b":{");
            } else {
                out.push(b',');
            }
            answer::string(&mut out, &bucket.to_string());
            out.extend_from_slice(b":[");
            for (n, seq) in places.iter().enumerate() {
                if !go_on() {
                    return Ok(None);
                }
                out.extend_from_slice(if n > 0 { b"," } else { b"" });
                page::record(db, *seq, |row| answer::record(&mut out, row.id, row.version, row.updated_at, row.deleted, row.data))?;
                if out.len() > limits::PAGE_BYTES && !first {
                    break;
                }
            }
            if out.len() > limits::PAGE_BYTES && !first {
                out.truncate(before);
                self.more = true;
                break;
            }
            out.push(b']');
            open = Some(*table);
        }
        out.extend_from_slice(if open.is_some() { b"}}" } else { b"}" });
        Ok(Some(out))
    }
}

/// Reads everything; `None`: it was told to stop. `place` is where the answer stands, but for its seq, and `rules` the
/// generation of the rules that it goes by.
fn read(
    db: &Connection,
    asked: &Asked,
    tables: &[Arc<Table>],
    cursor: Option<Cursor>,
    mut place: Cursor,
    rules: i64,
    mut go_on: impl FnMut() -> bool,
) -> store::Result<Option<Answer>> {
    place.seq = verify::head(db)?;
    let same_rules = meta::read(db, meta::VIEW)? == Some(rules);
    let floor = meta::floor(db)?;
    let mut current = cursor.map(|cursor| {
        let same_view = same_rules && (cursor.epoch, cursor.view) == (place.epoch, place.view);
        let covers = [0, place.tables].contains(&cursor.tables) && cursor.start.is_none();
        same_view && covers && (floor..=place.seq).contains(&cursor.seq)
    });
    let mut wanted = Wanted::new(asked, tables);
    let mut answered = BTreeMap::new();
    for (at, table) in tables.iter().enumerate() {
        let name = table.name.as_str();
        let (mut all, mut buckets) = (Tally::default(), asked.wants_buckets(name).then(|| vec![Tally::default(); BUCKETS]));
        let by_bucket = buckets.is_some() || wanted.buckets.keys().any(|(table, _)| *table == at);
        for feed in verify::feeds(db, table.no, table.scopes(&asked.viewer.actor).as_deref())? {
            if let Some(cursor) = cursor.filter(|_| current == Some(true)) {
                current = Some(!verify::moved_on(db, feed, cursor.seq)?);
            }
            let mut due = go_on();
            let flow = verify::each_live(db, feed, |row| {
                let number = tally::number(row.id, row.version, row.hash);
                all.add(number);
                if by_bucket {
                    let bucket = tally::bucket(row.id);
                    if let Some(buckets) = &mut buckets {
                        buckets[usize::from(bucket)].add(number);
                    }
                    wanted.note(at, bucket, row.seq);
                }
                if all.count % STRIDE == 0 {
                    due = go_on();
                }
                if due { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            if flow.is_break() {
                return Ok(None);
            }
        }
        let matches = asked.own(name).map(|own| own == all);
        answered.insert(name.to_owned(), Verified { all, matches, buckets });
    }
    let mut records = None;
    if asked.request.records.is_some() {
        records = wanted.read(db, tables, go_on)?;
        if records.is_none() {
            return Ok(None);
        }
    }
    let time = match records::time_of(db, place.seq)? {
        Some(time) => time,
        None => meta::read(db, meta::EPOCH_BEGAN)?.unwrap_or_default(),
    };
    Ok(Some(Answer { time, place, current, tables: answered, records, more: wanted.more }))
}
