//! Delta: what differs between a record as a client has it and as it is now, and what both sides changed.

use bytes::Bytes;

use crate::domain::actor::Actor;
use crate::domain::delta::{Difference, differences};
use crate::domain::ids::RecordId;
use crate::domain::incoming::{self, Incoming};
use crate::domain::path;
use crate::domain::record::Content;
use crate::protocol;
use crate::protocol::delta::DeltaRequest;
use crate::protocol::problem::Code;
use crate::store::records::{self, Stored};

use super::records::{absent, sees, table};
use super::{App, Error, Result, answer, problem, push};

/// Serves a delta.
pub async fn delta(app: &App, actor: &Actor, body: Bytes) -> Result<Vec<u8>> {
    let request: DeltaRequest<'_> =
        protocol::object(&body).map_err(|e| Error::Problem(Code::InvalidRequest, format!("The body is not a delta: {e}.")))?;
    let table = table(app, actor, &request.table)?;
    let id = RecordId::parse(&request.id).map_err(|e| Error::Problem(Code::InvalidRecord, format!("{e}.")))?;
    let version = match request.version.map(|raw| incoming::plain(raw.get()).and_then(|value| value.as_i64())) {
        None => 0,
        Some(Some(version)) if version >= 0 => version,
        Some(_) => return problem(Code::InvalidRecord, "\"version\" is not a whole number from 0 on."),
    };
    let client = fields(request.fields.map_or("{}", |raw| raw.get()), app.limits.record_bytes)?;

    let (no, scope, viewer) = (table.no, table.rules.scope, actor.clone());
    let found = app
        .store
        .readers
        .run(move |db| {
            let head = records::head(db, no, id.as_str(), None)?.filter(|stored| sees(&viewer, scope, stored));
            let Some(head) = head else { return Ok(None) };
            let base = match version {
                0 => Some(Content::default()),
                version => records::version(db, head.version.seq, version)?.filter(|stored| sees(&viewer, scope, stored)).map(shown),
            };
            Ok(Some((head, base)))
        })
        .await?;
    let Some((head, base)) = found else { return absent() };
    let (version, deleted) = (head.version.version, head.version.deleted);
    let server = shown(head);
    Ok(write(version, deleted, &differences(base.as_ref(), &client, &server)))
}

/// The client's fields. Those of the protocol may be among them and say nothing.
fn fields(raw: &str, most: usize) -> Result<Content> {
    let large = || problem(Code::PayloadTooLarge, format!("The fields are larger than {most} bytes."));
    // Canonical form may be shorter than what was sent, never by more than white space and escapes.
    if raw.len() > 8 * most {
        return large();
    }
    let read = push::aside(raw.len(), || Incoming::parse(raw));
    let content = read.map_err(|e| Error::Problem(Code::InvalidRecord, format!("The fields are not a record's: {e}.")))?.content;
    if content.text().len() > most { large() } else { Ok(content) }
}

/// A version's content as clients know it: a tombstone has none.
fn shown(stored: Stored) -> Content {
    if stored.version.deleted { Content::default() } else { stored.version.content }
}

/// Writes the body.
fn write(version: i64, deleted: bool, found: &[Difference<'_>]) -> Vec<u8> {
    let flag = |set: bool| if set { b"true".as_slice() } else { b"false" };
    let mut out = b"{\"success\":true,\"has_changes\":".to_vec();
    out.extend_from_slice(flag(deleted || !found.is_empty()));
    out.extend_from_slice(b",\"version\":");
    answer::number(&mut out, version);
    out.extend_from_slice(b",\"deleted\":");
    out.extend_from_slice(flag(deleted));
    out.extend_from_slice(b",\"field_deltas\":[");
    for (place, one) in found.iter().enumerate() {
        out.extend_from_slice(if place > 0 { b",{\"field\":".as_slice() } else { b"{\"field\":" });
        answer::string(&mut out, &path::step(&one.name));
        out.extend_from_slice(b",\"client_value\":");
        out.extend_from_slice(one.client.unwrap_or("null").as_bytes());
        out.extend_from_slice(b",\"server_value\":");
        out.extend_from_slice(one.server.unwrap_or("null").as_bytes());
        out.extend_from_slice(b",\"has_conflict\":");
        out.extend_from_slice(flag(one.conflict));
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}
