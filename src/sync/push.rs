//! Push: reading the request, deciding each change inside one savepoint, and the answer.
//!
//! Everything that can be done on the caller's side is done there: parsing, canonical form, hashes. The writer only decides
//! and writes. Each change ends in exactly one of three lists: applied, conflicts, rejected.

mod apply;
pub(super) mod ask;
mod lineage;
mod read;
mod repeat;
mod reply;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use rusqlite::Connection;

use crate::domain::ask::{Question, Replies};
use crate::domain::change::Position;
use crate::domain::clock::{self, Micros};
use crate::domain::cursor::{Cursor, Seq};
use crate::protocol;
use crate::protocol::problem::Code;
use crate::protocol::push::{PushRequest, Report};
use crate::sqlite::writer::Outcome;
use crate::store::accounts::Device;
use crate::store::ledger::Ledger;
use crate::store::{self, conflicts, records};
use crate::telemetry::metrics::Metrics;

use super::{App, Error, Result, figures, problem};

/// What a push came to.
#[derive(Debug)]
pub struct Pushed {
    /// An atomic push that was refused.
    pub refused: bool,
    /// The answer's body.
    pub body: Vec<u8>,
}

/// A change that can be decided.
#[derive(Debug)]
struct Ready {
    table: Arc<super::office::Table>,
    change: crate::domain::change::Change,
    op: crate::domain::change::Op,
    /// Hash of the content, or of the patch.
    hash: crate::domain::record::Hash,
}

/// One change of the request.
#[derive(Debug)]
struct Item {
    table: Arc<str>,
    record: Option<String>,
    op_id: Option<String>,
    /// Where it stands in the body.
    raw: std::ops::Range<usize>,
    ready: std::result::Result<Ready, (Code, String)>,
}

/// A stored record as an answer shows it.
#[derive(Debug)]
struct Shown {
    version: i64,
    updated_at: Micros,
    deleted: bool,
    content: String,
}

impl Shown {
    fn of(stored: &records::Stored) -> Shown {
        Shown {
            version: stored.version.version,
            updated_at: stored.version.updated_at,
            deleted: stored.version.deleted,
            content: stored.version.content.text().to_owned(),
        }
    }
}

/// What became of a change.
#[derive(Debug)]
enum Verdict {
    Applied {
        status: &'static str,
        version: Option<i64>,
        data: Option<Shown>,
        op: crate::domain::record::Hash,
    },
    Conflict {
        conflict: Box<conflicts::Conflict>,
        visible: bool,
        recorded: bool,
    },
    Rejected {
        code: Code,
        detail: String,
    },
    /// Nothing yet: a script or schema has to be asked first.
    Asks(Question),
    /// Nothing yet: an earlier change of the record waits.
    Waits,
}

impl Verdict {
    /// An atomic push does not stand with it.
    fn lost(&self) -> bool {
        match self {
            Verdict::Applied { .. } => false,
            Verdict::Conflict { conflict, .. } => !matches!(conflict.winner.as_str(), "client" | "merged"),
            Verdict::Rejected { .. } => true,
            Verdict::Asks(_) | Verdict::Waits => false,
        }
    }

    /// It is undecided.
    fn waits(&self) -> bool {
        matches!(self, Verdict::Asks(_) | Verdict::Waits)
    }
}

/// What the whole request says about itself.
#[derive(Debug, Clone, Copy)]
struct Frame {
    now: Micros,
    offset: Micros,
    position: Position,
    dry_run: bool,
    atomic: bool,
    horizon: Micros,
}

/// Serves a push, and counts it.
pub async fn push(app: &App, device: &Arc<Device>, body: Bytes, request_id: &str) -> Result<Pushed> {
    let began = Instant::now();
    let answer = serve(app, device, body, request_id).await;
    figures::synced(app, &app.store.metrics.pushes, began, answer.is_ok());
    answer
}

async fn serve(app: &App, device: &Arc<Device>, body: Bytes, request_id: &str) -> Result<Pushed> {
    app.accepts_writes()?;
    let request: PushRequest<'_> =
        protocol::object(&body).map_err(|e| Error::Problem(Code::InvalidRequest, format!("The body is not a push: {e}.")))?;
    super::devices::same_device(device, request.device_id.as_deref())?;
    let office = app.office();
    let now = app.store.clock.now();
    let sent = match &request.timestamp {
        Some(text) => {
            Some(clock::parse(text).ok_or_else(|| Error::Problem(Code::InvalidRequest, "timestamp is not an RFC 3339 time.".into()))?)
        }
        None => None,
    };
    let position = position(app, device, &request).await?;
    let frame = Frame {
        now,
        offset: clock::offset(now, sent),
        position,
        dry_run: request.dry_run.unwrap_or(false),
        atomic: request.atomic.unwrap_or(false),
        horizon: now - app.retention.days * clock::DAY,
    };
    let count = request.changes.count + request.operations.as_ref().map_or(0, |operations| operations.count);
    if count > app.limits.push_changes {
        return problem(Code::PayloadTooLarge, format!("{count} changes in one push; the limit is {}.", app.limits.push_changes));
    }
    let report = request.report.and_then(|text| Report::read(text.get()));
    let items = aside(body.len(), || read::items(&request, &body, &office, device, &frame, app.limits.record_bytes));
    drop(request);

    device.activity.note(|seen| {
        (seen.seen_at, seen.pushed_at) = (Some(now), Some(now));
        if let Some(sent) = sent {
            seen.skew = Some(sent - now);
        }
        if let Some(report) = report {
            (seen.report, seen.reported_at) = (serde_json::to_string(&report).ok(), Some(now));
        }
    });
    let mut round = Round { items, verdicts: Vec::new(), replies: Replies::new(), patient: true, head: 0, time: 0 };
    let mut budget = ask::Budget::of(round.items.len(), frame.dry_run || frame.atomic);
    budget.ahead(app, device, &mut round).await?;
    let verdicts = loop {
        let (author, raw) = (device.clone(), body.clone());
        round = app
            .store
            .writer
            .run(move |db, ledger| {
                round.run(&author, &frame, db, ledger, &raw)?;
                Ok(if round.is_undone(&frame) { Outcome::Undo(round) } else { Outcome::Keep(round) })
            })
            .await?;
        if !round.verdicts.iter().any(Verdict::waits) {
            break std::mem::take(&mut round.verdicts);
        }
        budget.answer(app, &mut round).await?;
    };
    let Round { items, head, time, .. } = round;
    let (epoch, view, before, last) = {
        let state = app.store.live.read();
        (state.epoch, state.view, state.head, state.time)
    };
    let refused = frame.atomic && verdicts.iter().any(Verdict::lost);
    let undone = frame.dry_run || refused;
    if !undone {
        count_answers(&app.store.metrics, &verdicts);
    }
    let (head, time) = if undone { (before, last) } else { (head, time) };
    let head = Cursor { epoch, seq: head, view: view + device.view, tables: 0, start: None };
    Ok(Pushed { refused, body: reply::write(&items, &verdicts, time, &head, refused.then_some(request_id), frame.dry_run) })
}

/// Counts changes by their answers: one that was here before counts again.
fn count_answers(metrics: &Metrics, verdicts: &[Verdict]) {
    let changes = &metrics.changes;
    for verdict in verdicts {
        match verdict {
            Verdict::Applied { status: "merged", .. } => changes.merged.inc(),
            Verdict::Applied { status: "noop", .. } => changes.noop.inc(),
            Verdict::Applied { .. } => changes.applied.inc(),
            Verdict::Conflict { conflict, .. } => {
                metrics.conflict(&conflict.rule, &conflict.winner);
                changes.conflict.inc()
            }
            Verdict::Rejected { .. } => changes.rejected.inc(),
            Verdict::Asks(_) | Verdict::Waits => continue,
        };
    }
}

/// The changes on their way through the writer. Hardly any push needs a second round: only one of a table with a script or
/// a schema, about what came of a merge.
struct Round {
    items: Vec<Item>,
    /// In the items' order.
    verdicts: Vec<Verdict>,
    /// What scripts and schemas said so far.
    replies: Replies,
    /// There may be a further round; else what is not answered counts as out of time.
    patient: bool,
    head: Seq,
    time: Micros,
}

impl Round {
    /// Decides what is undecided. A change whose question is open waits, and with it later ones of its record.
    fn run(&mut self, device: &Device, frame: &Frame, db: &Connection, ledger: &mut Ledger, raw: &Bytes) -> store::Result<()> {
        if frame.dry_run || frame.atomic {
            // All stand or fall together, so every round begins anew.
            self.verdicts.clear();
        }
        let first = self.verdicts.is_empty();
        let mut job = apply::Job { db, ledger, device, frame, replies: &mut self.replies, patient: self.patient };
        let mut waiting: HashSet<(&str, Option<&str>)> = HashSet::new();
        for (place, item) in self.items.iter().enumerate() {
            if !first && !self.verdicts[place].waits() {
                continue;
            }
            let record = (&*item.table, item.record.as_deref());
            let verdict = if item.ready.is_ok() && waiting.contains(&record) { Verdict::Waits } else { job.item(item, raw)? };
            if verdict.waits() {
                waiting.insert(record);
            }
            if first { self.verdicts.push(verdict) } else { self.verdicts[place] = verdict }
        }
        (self.head, self.time) = (job.ledger.head(), job.ledger.time());
        Ok(())
    }

    /// Nothing of this round stays: it was only foretold, or a whole was refused, or a whole still has questions.
    fn is_undone(&self, frame: &Frame) -> bool {
        frame.dry_run || (frame.atomic && self.verdicts.iter().any(|verdict| verdict.lost() || verdict.waits()))
    }
}

/// Above so many bytes, parsing leaves the event loop.
const ASIDE: usize = 64 << 10;

/// Runs work in place, and lets the runtime move other tasks away first where it is long.
pub(super) fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let threads = tokio::runtime::Handle::current().runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread;
    if threads && bytes > ASIDE { tokio::task::block_in_place(work) } else { work() }
}

/// What stands in for the base of changes that name none.
async fn position(app: &App, device: &Device, request: &PushRequest<'_>) -> Result<Position> {
    let (epoch, began, floor, head, view) = {
        let state = app.store.live.read();
        (state.epoch, state.epoch_began, state.floor, state.head, state.view + device.view)
    };
    if let Some(text) = &request.cursor {
        let cursor = Cursor::parse(text).ok_or_else(super::pull::bad_cursor)?;
        if cursor.epoch != epoch {
            return problem(
                Code::EpochChanged,
                "The server was restored from a backup since this cursor was given. Pull first (it will reset), then push.",
            );
        }
        // A cursor of another view does not tell what the device holds of this one.
        let finished = cursor.start.is_none() && cursor.view == view && cursor.seq <= head;
        return Ok(Position::Presented { seq: cursor.seq, finished });
    }
    if let Some(text) = &request.last_sync_timestamp {
        let time = super::pull::timestamp(text)?;
        if time < began {
            return Ok(Position::Presented { seq: 0, finished: false });
        }
        let seq = app.store.readers.run(move |db| records::seq_at(db, time)).await?;
        return Ok(Position::Presented { seq, finished: seq >= floor });
    }
    Ok(device.activity.cursor(view).map_or(Position::Never, |seq| Position::Remembered { seq }))
}
