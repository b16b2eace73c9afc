//! One record, and its history. A hidden record and an absent one are the same, by the same statements.

use serde_json::{Value, json};

use crate::domain::actor::Actor;
use crate::domain::clock;
use crate::domain::limits;
use crate::domain::record::Content;
use crate::domain::rules::Scope;
use crate::protocol::problem::Code;
use crate::store::records;

use super::{App, Result, answer, differences, problem};

/// The newest versions that a page of history walks over without showing any: those of feeds that the actor never saw.
const HIDDEN_STEPS: usize = limits::LINEAGE_VERSIONS;

pub(super) fn absent<T>() -> Result<T> {
    problem(Code::NotFound, "There is no such record.")
}

pub(super) fn table(app: &App, actor: &Actor, name: &str) -> Result<std::sync::Arc<super::office::Table>> {
    let office = app.office();
    let Some(table) = office.table(name) else {
        return problem(Code::UnknownTable, format!("The rules name no table {:?}.", name.chars().take(80).collect::<String>()));
    };
    if !actor.may_read(&table.rules) {
        return problem(Code::Forbidden, format!("A {} may not read {name}.", actor.role.word()));
    }
    Ok(table.clone())
}

/// The record as it is now, JSON. A tombstone is shown as one.
pub async fn one(app: &App, actor: &Actor, name: &str, id: &str) -> Result<Vec<u8>> {
    let table = table(app, actor, name)?;
    let (record, no) = (id.to_owned(), table.no);
    let found = app.store.readers.run(move |db| records::head(db, no, &record, None)).await?;
    match found.filter(|stored| actor.in_scope(table.rules.scope, &stored.version.scope)) {
        Some(stored) => {
            let version = stored.version;
            let mut out = b"{\"record\":".to_vec();
            answer::record(
                &mut out,
                id.as_bytes(),
                version.version,
                version.updated_at,
                version.deleted,
                version.content.text().as_bytes(),
            );
            out.extend_from_slice(b",\"hash\":");
            answer::string(&mut out, &version.hash.to_string());
            out.push(b'}');
            Ok(out)
        }
        None => absent(),
    }
}

/// The record's versions, newest first, and the version to ask for next. What a version was while it belonged to others
/// is not shown.
pub async fn history(
    app: &App,
    actor: &Actor,
    name: &str,
    id: &str,
    after: Option<i64>,
    limit: usize,
) -> Result<(Vec<Value>, Option<String>)> {
    let table = table(app, actor, name)?;
    let (record, no, scope, viewer) = (id.to_owned(), table.no, table.rules.scope, actor.clone());
    let entries = app
        .store
        .readers
        .run(move |db| {
            let head = records::head(db, no, &record, None)?.filter(|stored| sees(&viewer, scope, stored));
            let Some(head) = head else { return Ok(None) };
            let (mut entries, mut next, mut steps) = (Vec::new(), Some(head.version.seq), 0);
            while let Some(seq) = next
                && entries.len() <= limit + 1
                && steps < HIDDEN_STEPS
            {
                steps += 1;
                let Some(entry) = records::entry(db, seq)? else { break };
                next = entry.stored.previous;
                if after.is_none_or(|version| entry.stored.version.version < version) && sees(&viewer, scope, &entry.stored) {
                    entries.push(entry);
                }
            }
            Ok(Some(entries))
        })
        .await?;
    let Some(entries) = entries else { return absent() };
    let next = (entries.len() > limit).then(|| entries[limit - 1].stored.version.version.to_string());
    let shown = entries.iter().take(limit).enumerate().map(|(place, entry)| {
        let before = entries.get(place + 1).map(|older| &older.stored.version);
        describe(id, entry, before.map(|version| &version.content))
    });
    Ok((shown.collect(), next))
}

pub(super) fn sees(actor: &Actor, scope: Scope, stored: &records::Stored) -> bool {
    actor.in_scope(scope, &stored.version.scope)
}

fn describe(id: &str, entry: &records::Entry, before: Option<&Content>) -> Value {
    let version = &entry.stored.version;
    let mut record = Vec::new();
    answer::record(&mut record, id.as_bytes(), version.version, version.updated_at, version.deleted, version.content.text().as_bytes());
    json!({
        "version": version.version,
        "operation": match (version.deleted, version.version) { (true, _) => "delete", (_, 1) => "create", _ => "update" },
        "user": entry.user,
        "role": entry.role,
        "device_id": entry.device,
        "device_name": entry.device_name,
        "updated_at": clock::text(version.updated_at),
        "edited_at": clock::text(version.edited_at),
        "received_at": clock::text(version.received_at),
        "rule": entry.rule,
        "conflict_id": entry.conflict,
        "changed": differences::paths(&version.content, before.unwrap_or(&Content::default())),
        "data": serde_json::from_slice::<Value>(&record).unwrap_or(Value::Null),
    })
}
