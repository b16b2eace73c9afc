//! Push: reading the request, deciding each change inside one savepoint, and the answer.
//!
//! Everything that can be done on the caller's side is done there: parsing, canonical form, hashes. The writer only decides
//! and writes. Each change ends in exactly one of three lists: applied, conflicts, rejected.

mod apply;
mod read;
mod reply;

use std::sync::Arc;

use bytes::Bytes;

use crate::domain::change::Position;
use crate::domain::clock::{self, Micros};
use crate::domain::cursor::Cursor;
use crate::protocol;
use crate::protocol::problem::Code;
use crate::protocol::push::PushRequest;
use crate::sqlite::writer::Outcome;
use crate::store::accounts::Device;
use crate::store::{conflicts, records};

use super::{App, Error, Result, problem};

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
    Applied { status: &'static str, version: Option<i64>, data: Option<Shown>, op: crate::domain::record::Hash },
    Conflict { conflict: Box<conflicts::Conflict>, visible: bool, recorded: bool },
    Rejected { code: Code, detail: String },
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

/// Serves a push.
pub async fn push(app: &App, device: &Arc<Device>, body: Bytes, request_id: &str) -> Result<Pushed> {
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
    let report = request.report.clone();
    let items = aside(body.len(), || read::items(&request, &body, &office, device, &frame, app.limits.record_bytes));
    drop(request);

    device.activity.note(|seen| {
        (seen.seen_at, seen.pushed_at) = (Some(now), Some(now));
        if let Some(sent) = sent {
            seen.skew = Some(sent - now);
        }
        if let Some(report) = report {
            seen.report = serde_json::to_string(&report.bounded()).ok();
        }
    });
    let (author, raw) = (device.clone(), body.clone());
    let (items, verdicts, head, time) = app
        .store
        .writer
        .run(move |db, ledger| {
            let mut verdicts = Vec::with_capacity(items.len());
            let mut lost = false;
            let mut job = apply::Job { db, ledger, device: &author, frame: &frame };
            for item in &items {
                let verdict = job.item(item, &raw)?;
                lost |= match &verdict {
                    Verdict::Applied { .. } => false,
                    Verdict::Conflict { conflict, .. } => conflict.winner != "client",
                    Verdict::Rejected { .. } => true,
                };
                verdicts.push(verdict);
            }
            let done = (items, verdicts, ledger.head(), ledger.time());
            Ok(if frame.dry_run || (frame.atomic && lost) { Outcome::Undo(done) } else { Outcome::Keep(done) })
        })
        .await?;
    let (epoch, view, before, last) = {
        let state = app.store.live.read();
        (state.epoch, state.view, state.head, state.time)
    };
    let refused = frame.atomic
        && verdicts.iter().any(|v| match v {
            Verdict::Applied { .. } => false,
            Verdict::Conflict { conflict, .. } => conflict.winner != "client",
            Verdict::Rejected { .. } => true,
        });
    let undone = frame.dry_run || refused;
    let (head, time) = if undone { (before, last) } else { (head, time) };
    let head = Cursor { epoch, seq: head, view: view + device.view, tables: 0, start: None };
    Ok(Pushed { refused, body: reply::write(&items, &verdicts, time, &head, refused.then_some(request_id), frame.dry_run) })
}

/// Above so many bytes, parsing leaves the event loop.
const ASIDE: usize = 64 << 10;

/// Runs work in place, and lets the runtime move other tasks away first where it is long.
fn aside<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
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
