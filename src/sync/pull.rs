//! Pull: what changed in a device's view since its cursor, one page at a time.
//!
//! An idle pull is answered from memory. Any other opens only the feeds that have something newer, walks them together by
//! seq and copies the rows' text into the answer.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::domain::clock::{self, Micros};
use crate::domain::cursor::{Cursor, Seq};
use crate::domain::limits;
use crate::domain::record::Hash;
use crate::protocol;
use crate::protocol::problem::Code;
use crate::protocol::pull::PullRequest;
use crate::store::accounts::{Device, Given};
use crate::store::live::{Live, State};
use crate::store::page::{self, Item, Stream};
use crate::store::records;
use crate::store::{self, meta};

use super::answer::{self, ByTable};
use super::office::{Office, Table};
use super::{App, Error, Result, figures, problem};

/// A cursor that this server never wrote.
pub fn bad_cursor() -> Error {
    Error::Problem(Code::InvalidCursor, "The cursor was not written by this server. Pull without one to start over.".into())
}

/// Reads a `last_sync_timestamp`.
pub fn timestamp(text: &str) -> Result<Micros> {
    match clock::parse(text) {
        Some(time) => Ok(time),
        None => problem(Code::InvalidRequest, "last_sync_timestamp is not an RFC 3339 time."),
    }
}

/// Where a pull begins.
#[derive(Debug, Clone, Copy)]
struct From {
    after: Seq,
    /// In a pull from zero: the head when it began.
    start: Option<Seq>,
    /// Its first page.
    first: bool,
}

/// What a page is read for.
#[derive(Debug)]
struct Page {
    from: From,
    head: Seq,
    streams: Vec<Stream>,
    limit: usize,
    exclude: Option<i64>,
}

/// Serves a pull, and counts it.
pub async fn pull(app: &App, device: &Arc<Device>, body: Bytes) -> Result<Vec<u8>> {
    let began = Instant::now();
    let answer = serve(app, device, body).await;
    figures::synced(app, &app.store.metrics.pulls, began, answer.is_ok());
    answer
}

async fn serve(app: &App, device: &Arc<Device>, body: Bytes) -> Result<Vec<u8>> {
    let request: PullRequest =
        protocol::object(&body).map_err(|e| Error::Problem(Code::InvalidRequest, format!("The body is not a pull: {e}.")))?;
    super::devices::same_device(device, request.device_id.as_deref())?;
    let office = app.office();
    let names: Option<Vec<&str>> = request.tables.as_ref().map(|names| names.iter().map(String::as_str).collect());
    let tables = selection(&office, device, names.as_deref())?;
    let limit = match request.limit {
        None => limits::PAGE_DEFAULT,
        Some(limit) if limit > 0 => usize::try_from(limit).unwrap_or(usize::MAX).min(app.limits.page_records),
        Some(_) => return problem(Code::InvalidRequest, "limit is a whole number from 1 on."),
    };
    let selected = fingerprint(names.as_deref());
    let now = app.store.clock.now();
    let skew = match &request.timestamp {
        Some(text) => clock::parse(text).map(|at| at - now),
        None => None,
    };
    let cursor = match &request.cursor {
        Some(text) => Some(Cursor::parse(text).ok_or_else(bad_cursor)?),
        None => None,
    };
    let since = match (&cursor, &request.last_sync_timestamp) {
        (None, Some(text)) => {
            let time = timestamp(text)?;
            let began = app.store.live.read().epoch_began;
            if time < began { None } else { Some(app.store.readers.run(move |db| records::seq_at(db, time)).await?) }
        }
        _ => None,
    };

    let (page, mut next, time) = {
        let state = app.store.live.read();
        // Of the rules that this pull is answered by, not of newer ones.
        let view = office.view + device.view;
        let from = begin(&state, view, cursor.as_ref(), since, selected);
        let next = Cursor { epoch: state.epoch, seq: state.head, view, tables: selected, start: None };
        let streams = streams(&state, device, &tables, from);
        (
            Page { from, head: state.head, streams, limit, exclude: request.exclude_own.unwrap_or(false).then_some(device.no) },
            next,
            state.time,
        )
    };
    let presented = cursor.filter(|c| c.epoch == next.epoch && c.view == next.view).map(|c| (c.seq, c.start.is_none()));
    let view = next.view;
    device.activity.note(|seen| {
        (seen.seen_at, seen.pulled_at) = (Some(now), Some(now));
        seen.skew = skew.or(seen.skew);
        match presented.or(since.map(|seq| (seq, true))) {
            Some((seq, true)) => (seen.cursor, seen.view, seen.pulled) = (seq, view, true),
            Some((_, false)) => {}
            None => (seen.cursor, seen.pulled) = (0, false),
        }
        for table in &tables {
            match seen.tables.get_mut(table.name.as_str()) {
                Some(at) => *at = now,
                None => drop(seen.tables.insert(table.name.as_str().to_owned(), now)),
            }
        }
    });

    let from = page.from;
    if page.streams.is_empty() {
        give(device, &tables, &next);
        return Ok(finish(&ByTable::default(), &ByTable::default(), from, &next, false, time));
    }
    let (viewer, live, selected) = (device.clone(), app.store.live.clone(), tables.clone());
    let body = app
        .store
        .readers
        .run(move |db| {
            let mut page = page;
            // Between the look at memory and this transaction a purge may have passed by.
            let floor = meta::floor(db)?;
            let purged = from.start.unwrap_or(from.after).max(from.after) < floor && !from.first;
            catch_up(db, &live, &viewer, &selected, &mut page)?;
            next.seq = page.head;
            if purged { Ok(None) } else { read(db, &office, &viewer, page, &mut next).map(|(body, records)| Some((body, records, next))) }
        })
        .await?;
    match body {
        Some((body, records, next)) => {
            app.store.metrics.pull_records.inc_by(records);
            give(device, &tables, &next);
            Ok(body)
        }
        None => problem(Code::Unavailable, "Deleted records were removed just now. Pull again."),
    }
}

/// Notes how far a device was given tables: pages are in the order of seq, so up to the answer's cursor.
fn give(device: &Device, tables: &[Arc<Table>], next: &Cursor) {
    device.activity.note(|seen| {
        if seen.given.view != next.view {
            seen.given = Given { view: next.view, ..Given::default() };
        }
        seen.given.tables.extend(tables.iter().map(|table| (table.no, next.seq)));
    });
}

/// The tables of a pull, each readable.
pub(super) fn selection(office: &Office, device: &Device, names: Option<&[&str]>) -> Result<Vec<Arc<Table>>> {
    let Some(names) = names else {
        return Ok(office.tables().filter(|table| device.actor.may_read(&table.rules)).cloned().collect());
    };
    let mut tables: Vec<Arc<Table>> = Vec::with_capacity(names.len());
    for name in names {
        let Some(table) = office.table(name) else {
            return problem(Code::UnknownTable, format!("The rules name no table {:?}.", name.chars().take(80).collect::<String>()));
        };
        if !device.actor.may_read(&table.rules) {
            return problem(Code::Forbidden, format!("A {} may not read {name}.", device.actor.role.word()));
        }
        if !tables.iter().any(|known| known.no == table.no) {
            tables.push(table.clone());
        }
    }
    Ok(tables)
}

/// Which tables were asked for, whatever their order; 0 for all.
pub(super) fn fingerprint(names: Option<&[&str]>) -> u64 {
    let Some(names) = names else { return 0 };
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    let hash = Hash::of(names.join(",").as_bytes());
    hash.0.iter().take(8).fold(0, |word, byte| (word << 8) | u64::from(*byte)) | 1
}

/// Goes on from the cursor, or starts over where that is not possible.
fn begin(state: &State, view: i64, cursor: Option<&Cursor>, since: Option<Seq>, selected: u64) -> From {
    let zero = From { after: 0, start: Some(state.head), first: true };
    match (cursor, since) {
        (Some(cursor), _) => {
            let reached = cursor.seq.max(cursor.start.unwrap_or(0));
            let known = cursor.epoch == state.epoch && cursor.seq <= state.head && reached >= state.floor;
            let same = cursor.view == view && cursor.tables == selected;
            if known && same { From { after: cursor.seq, start: cursor.start, first: false } } else { zero }
        }
        (None, Some(seq)) if seq >= state.floor => From { after: seq, start: None, first: false },
        _ => zero,
    }
}

/// The feeds to open: those of the view and the tables that have something newer.
fn streams(state: &State, device: &Device, tables: &[Arc<Table>], from: From) -> Vec<Stream> {
    let actor = &device.actor;
    let mut streams = Vec::new();
    if actor.role.sees_all() {
        for (no, feed) in state.newer(from.after) {
            if tables.iter().any(|table| table.no == feed.table) {
                streams.push(Stream { feed: no, table: feed.table, evictions: false, after: from.after });
            }
        }
        return streams;
    }
    for table in tables {
        for no in table.feeds(actor, state) {
            let newer = state.head_of(no) > from.after;
            if newer {
                streams.push(Stream { feed: no, table: table.no, evictions: false, after: from.after });
            }
            let left = from.after.max(from.start.unwrap_or(0));
            if newer && state.head_of(no) > left {
                streams.push(Stream { feed: no, table: table.no, evictions: true, after: left });
            }
        }
    }
    streams
}

/// Moves a page's end to the newest commit that its transaction sees: it does not show a version any more that a later commit
/// has superseded, so a page that ended before that commit would have neither.
fn catch_up(db: &rusqlite::Connection, live: &Live, device: &Device, tables: &[Arc<Table>], page: &mut Page) -> store::Result<()> {
    let newest = records::newest(db)?;
    if newest > page.head {
        // Committed, and about to be known in memory.
        let state = live.reached(newest).ok_or(store::Error::Closed)?;
        (page.head, page.streams) = (newest, streams(&state, device, tables, page.from));
    }
    Ok(())
}

/// Reads a page; the answer's body, and how many records it has.
fn read(db: &rusqlite::Connection, office: &Office, device: &Device, page: Page, next: &mut Cursor) -> store::Result<(Vec<u8>, u64)> {
    let Page { from, head, streams, limit, exclude } = page;
    let (mut changes, mut evicted) = (ByTable::default(), ByTable::default());
    let (mut count, mut records, mut last, mut more) = (0, 0, from.after, false);
    let mut gone = std::collections::HashSet::new();
    let exclude = exclude.filter(|_| from.start.is_none());
    page::page(db, streams, head, limit, |item| {
        let seq = match &item {
            Item::Record { seq, .. } | Item::Eviction { seq, .. } => *seq,
        };
        // A move is one change with two sides; both belong to the same page.
        if (count >= limit || changes.bytes() >= limits::PAGE_BYTES) && seq != last {
            more = true;
            return Ok(ControlFlow::Break(()));
        }
        match item {
            Item::Record { seq, table, row } => {
                last = seq;
                let hidden = row.deleted && from.start.is_some_and(|start| seq <= start);
                let own = row.fidelity == 2 && exclude.is_some() && exclude == row.device;
                if let Some(table) = office.numbered(table).filter(|_| !hidden && !own) {
                    answer::record(changes.next(table.name.as_str()), row.id, row.version, row.updated_at, row.deleted, row.data);
                    (count, records) = (count + 1, records + 1);
                }
            }
            Item::Eviction { seq, table, id } => {
                last = seq;
                let Some(table) = office.numbered(table) else { return Ok(ControlFlow::Continue(())) };
                let back = records::head(db, table.no, &id, None)?
                    .is_some_and(|stored| device.actor.in_scope(table.rules.scope, &stored.version.scope));
                if !back && gone.insert((table.no, id.clone())) {
                    answer::string(evicted.next(table.name.as_str()), &id);
                    count += 1;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if more {
        (next.seq, next.start) = (last, from.start);
    }
    let time = match records::time_of(db, next.seq)? {
        Some(time) => time,
        None => meta::read(db, meta::EPOCH_BEGAN)?.unwrap_or_default(),
    };
    Ok((finish(&changes, &evicted, from, next, more, time), records))
}

/// Writes the body.
fn finish(changes: &ByTable, evicted: &ByTable, from: From, next: &Cursor, more: bool, time: Micros) -> Vec<u8> {
    let mut out = Vec::with_capacity(320 + changes.bytes() + evicted.bytes());
    out.extend_from_slice(b"{\"success\":true,\"timestamp\":");
    answer::time(&mut out, time);
    out.extend_from_slice(b",\"cursor\":");
    answer::string(&mut out, &next.text());
    out.extend_from_slice(if more { b",\"has_more\":true" } else { b",\"has_more\":false" });
    out.extend_from_slice(match from {
        From { start: None, .. } => b",\"reset\":false,\"changes\":".as_slice(),
        From { first: true, .. } => b",\"reset\":\"first\",\"changes\":",
        From { first: false, .. } => b",\"reset\":\"more\",\"changes\":",
    });
    changes.write(&mut out);
    out.extend_from_slice(b",\"evicted\":");
    evicted.write(&mut out);
    out.extend_from_slice(b",\"conflicts\":null}");
    out
}
