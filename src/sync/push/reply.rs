//! The answer to a push.

use crate::domain::clock::Micros;
use crate::domain::cursor::Cursor;
use crate::protocol::problem::{Code, Problem};
use crate::store::conflicts::Conflict;
use crate::sync::answer::{self, ByTable};

use super::{Item, Verdict};

/// Writes the body: three lists, in each of which changes keep the request's order. `refused`: an atomic push was, with the
/// id of its request.
pub(super) fn write(items: &[Item], verdicts: &[Verdict], time: Micros, head: &Cursor, refused: Option<&str>, dry_run: bool) -> Vec<u8> {
    let (mut applied, mut conflicts, mut rejected) = (ByTable::default(), Vec::new(), Vec::new());
    for (item, verdict) in items.iter().zip(verdicts) {
        match verdict {
            Verdict::Applied { status, version, data, op } => {
                let out = applied.next(&item.table);
                let id = item.record.as_deref().unwrap_or_default();
                out.extend_from_slice(b"{\"id\":");
                answer::string(out, id);
                out.extend_from_slice(b",\"op_id\":");
                match &item.op_id {
                    Some(op_id) => answer::string(out, op_id),
                    None => answer::string(out, &op.to_string()),
                }
                out.extend_from_slice(b",\"version\":");
                match version {
                    Some(version) => answer::number(out, *version),
                    None => out.extend_from_slice(b"null"),
                }
                out.extend_from_slice(b",\"status\":");
                answer::string(out, status);
                if let Some(data) = data {
                    out.extend_from_slice(b",\"data\":");
                    answer::record(out, id.as_bytes(), data.version, data.updated_at, data.deleted, data.content.as_bytes());
                }
                out.push(b'}');
            }
            Verdict::Conflict { conflict, visible, recorded } => {
                separate(&mut conflicts);
                write_conflict(&mut conflicts, &item.table, conflict, *visible, *recorded && refused.is_none());
            }
            // No answer is written before all is decided.
            Verdict::Asks(_) | Verdict::Waits => {}
            Verdict::Rejected { code, detail } => {
                separate(&mut rejected);
                let out = &mut rejected;
                for (name, text) in [
                    ("table", Some(&*item.table)),
                    ("record_id", item.record.as_deref()),
                    ("op_id", item.op_id.as_deref()),
                    ("code", Some(code.word())),
                    ("detail", Some(detail.as_str())),
                ] {
                    out.push(if name == "table" { b'{' } else { b',' });
                    answer::string(out, name);
                    out.push(b':');
                    match text {
                        Some(text) => answer::string(out, text),
                        None => out.extend_from_slice(b"null"),
                    }
                }
                out.push(b'}');
            }
        }
    }
    let mut out = Vec::with_capacity(256 + applied.bytes() + conflicts.len() + rejected.len());
    if let Some(request_id) = refused {
        let mut problem =
            Problem::new(Code::BatchRefused, "Something in this atomic push would be rejected or lose a conflict, so nothing was applied.");
        problem.request_id = request_id.to_owned();
        let text = serde_json::to_string(&problem).unwrap_or_default();
        out.extend_from_slice(text.trim_end_matches('}').as_bytes());
        out.extend_from_slice(b",\"success\":false");
    } else {
        out.extend_from_slice(b"{\"success\":true");
    }
    if dry_run {
        out.extend_from_slice(b",\"dry_run\":true");
    }
    out.extend_from_slice(b",\"timestamp\":");
    answer::time(&mut out, time);
    out.extend_from_slice(b",\"head\":");
    answer::string(&mut out, &head.text());
    out.extend_from_slice(b",\"applied\":");
    applied.write(&mut out);
    out.extend_from_slice(b",\"conflicts\":[");
    out.extend_from_slice(&conflicts);
    out.extend_from_slice(b"],\"rejected\":[");
    out.extend_from_slice(&rejected);
    out.extend_from_slice(b"]}");
    out
}

fn separate(list: &mut Vec<u8>) {
    if !list.is_empty() {
        list.push(b',');
    }
}

fn write_conflict(out: &mut Vec<u8>, table: &str, conflict: &Conflict, visible: bool, recorded: bool) {
    out.extend_from_slice(b"{\"conflict_id\":");
    optional(out, recorded.then_some(conflict.id.as_str()));
    out.extend_from_slice(b",\"op_id\":");
    match &conflict.op_id {
        Some(op_id) => answer::string(out, op_id),
        None => answer::string(out, &conflict.op.to_string()),
    }
    let texts = [
        ("table", Some(table)),
        ("record_id", Some(&*conflict.record)),
        ("rule", Some(&conflict.rule)),
        ("winner", Some(&conflict.winner)),
        ("reason", Some(&conflict.why)),
        ("detail", conflict.detail.as_deref()),
        ("status", Some(&conflict.status)),
        ("suggested_resolution", Some(&conflict.suggest)),
        ("suggested_because", conflict.because.as_deref()),
    ];
    for (name, text) in texts.into_iter().filter_map(|(name, text)| Some((name, text?))) {
        out.push(b',');
        answer::string(out, name);
        out.push(b':');
        answer::string(out, text);
    }
    out.extend_from_slice(b",\"fields\":");
    out.extend_from_slice(conflict.fields.as_bytes());
    out.extend_from_slice(b",\"winners\":");
    out.extend_from_slice(conflict.winners.as_deref().unwrap_or("[]").as_bytes());
    let id = conflict.record.as_bytes();
    out.extend_from_slice(b",\"client_data\":");
    // The version in the client's side is the one that the decision was taken over, unless the device may not know it.
    let version = match conflict.server_id {
        _ if !visible => 0,
        Some(_) => conflict.version,
        None => conflict.server_version,
    };
    match &conflict.client {
        Some(content) => answer::record(out, id, version, conflict.updated_at, false, content.as_bytes()),
        None => answer::record(out, id, version, conflict.updated_at, true, b"{}"),
    }
    out.extend_from_slice(b",\"server_data\":");
    match conflict.server.as_ref().filter(|_| visible) {
        Some(content) => {
            let id = conflict.server_id.as_deref().map_or(id, str::as_bytes);
            answer::record(out, id, conflict.server_version, conflict.server_updated_at, conflict.server_deleted, content.as_bytes());
        }
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"version\":");
    if visible && conflict.version > 0 {
        answer::number(out, conflict.version)
    } else {
        out.extend_from_slice(b"null")
    }
    out.push(b'}');
}

fn optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => answer::string(out, text),
        None => out.extend_from_slice(b"null"),
    }
}
