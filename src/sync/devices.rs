//! Devices: who may see, rename and revoke them, and what was refused of theirs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::actor::{Actor, Role};
use crate::domain::clock;
use crate::domain::limits;
use crate::protocol::problem::Code;
use crate::sqlite::writer::Outcome;
use crate::store::accounts::{Device, Directory};
use crate::store::{audit, conflicts, devices, rejections};

use super::{App, Result, problem};

/// A request may name its device; another one than the token's is refused.
pub fn same_device(device: &Device, named: Option<&str>) -> Result<()> {
    match (named, &device.actor.device) {
        (Some(named), Some(own)) if named != own.as_str() => {
            problem(Code::DeviceMismatch, "device_id names another device than the token's.")
        }
        _ => Ok(()),
    }
}

/// May this actor look after that device? Everyone their own, managers those of store users, admins all.
fn may_manage(actor: &Actor, device: &Device) -> bool {
    match actor.role {
        Role::Admin => true,
        Role::Manager => device.actor.user == actor.user || device.actor.role == Role::Store,
        Role::Store | Role::Service => device.actor.user == actor.user,
    }
}

/// May this actor see that device in lists? Managers see all.
fn may_see(actor: &Actor, device: &Device) -> bool {
    actor.role.manages() || device.actor.user == actor.user
}

/// What lists of devices are made of.
#[derive(Debug)]
struct Facts {
    rows: Vec<devices::Stored>,
    open: HashMap<i64, i64>,
    rejected: HashMap<i64, i64>,
    connected: HashSet<i64>,
    now: clock::Micros,
}

/// A device that was not seen for so long is archived: it no longer holds tombstones back, and comes back by reset.
pub const ACTIVE_DAYS: i64 = 90;

async fn facts(app: &App) -> Result<Facts> {
    let (now, connected) = (app.store.clock.now(), app.hub.connected());
    let read = move |db: &rusqlite::Connection| {
        Ok(Facts { rows: devices::all(db)?, open: conflicts::open_by_device(db)?, rejected: rejections::counts(db)?, connected, now })
    };
    Ok(app.store.readers.run(read).await?)
}

fn describe(row: &devices::Stored, device: &Device, facts: &Facts) -> Value {
    let seen = device.activity.seen();
    let report: Value = seen.report.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let told = |name: &str| report.get(name).cloned().unwrap_or(Value::Null);
    let time = |at: Option<clock::Micros>| at.map(clock::text);
    let status = match seen.seen_at.unwrap_or(row.created_at) {
        _ if device.revoked => "revoked",
        at if at > facts.now - ACTIVE_DAYS * clock::DAY => "active",
        _ => "archived",
    };
    json!({
        "device_id": row.id,
        "name": row.name,
        "user": device.actor.user,
        "role": device.actor.role,
        "stores": device.actor.stores,
        "platform": row.platform,
        "app_version": report.get("app_version").cloned().unwrap_or_else(|| row.app_version.clone().into()),
        "status": status,
        "connected": facts.connected.contains(&row.no),
        "enrolled_at": clock::text(row.created_at),
        "revoked_at": time(row.revoked_at),
        "last_seen": time(seen.seen_at),
        "last_push": time(seen.pushed_at),
        "last_pull": time(seen.pulled_at),
        "last_sync": time(seen.pushed_at.max(seen.pulled_at)),
        "last_sync_by_table": seen.tables.iter().map(|(table, at)| (table.clone(), clock::text(*at))).collect::<HashMap<_, _>>(),
        "pending": told("pending"),
        "failed": told("failed"),
        "report": report,
        "clock_skew_ms": seen.skew.map(|skew| skew / 1_000),
        "open_conflicts": facts.open.get(&row.no).copied().unwrap_or(0),
        "rejected": facts.rejected.get(&row.no).copied().unwrap_or(0),
    })
}

/// The devices that an actor may see, newest first, at most `limit` after a device of that id.
pub async fn list(app: &App, actor: &Actor, only: Option<&str>, after: Option<&str>, limit: usize) -> Result<(Vec<Value>, Option<String>)> {
    let facts = facts(app).await?;
    let directory = app.store.accounts.now();
    let visible = facts.rows.iter().filter_map(|row| {
        let device = directory.device(&row.id)?;
        (may_see(actor, device) && only.is_none_or(|id| row.id.as_str() == id)).then_some((row, device))
    });
    let mut visible = visible.skip_while(|(row, _)| after.is_some_and(|id| row.id.as_str() != id)).skip(usize::from(after.is_some()));
    let page: Vec<_> = visible.by_ref().take(limit).collect();
    let next = visible.next().and_then(|_| page.last().map(|(row, _)| row.id.to_string()));
    Ok((page.into_iter().map(|(row, device)| describe(row, device, &facts)).collect(), next))
}

/// A device that the actor may see; hidden and absent ones are the same.
fn find<'a>(directory: &'a Directory, actor: &Actor, id: &str) -> Result<&'a Arc<Device>> {
    let found = crate::domain::ids::DeviceId::parse(id).ok().and_then(|id| directory.device(&id));
    match found.filter(|device| may_see(actor, device)) {
        Some(device) => Ok(device),
        None => problem(Code::NotFound, "There is no such device."),
    }
}

fn manageable<'a>(directory: &'a Directory, actor: &Actor, id: &str) -> Result<&'a Arc<Device>> {
    let device = find(directory, actor, id)?;
    if may_manage(actor, device) { Ok(device) } else { problem(Code::Forbidden, "Only an admin may do this to a device of this user.") }
}

/// Gives a device another name.
pub async fn rename(app: &App, actor: &Actor, id: &str, name: &str) -> Result<Value> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > limits::LABEL_CHARS {
        return problem(Code::InvalidRequest, format!("A name has 1 to {} characters.", limits::LABEL_CHARS));
    }
    manageable(&app.store.accounts.now(), actor, id)?;
    let (by, to, device) = (actor.user.to_string(), name.to_owned(), id.to_owned());
    app.store
        .writer
        .run(move |db, ledger| {
            devices::rename(db, &device, &to)?;
            audit::write(db, ledger.now(), &by, "rename", &device, &json!({ "name": to }))?;
            ledger.accounts_changed();
            Ok(Outcome::Keep(()))
        })
        .await?;
    one(app, actor, id).await
}

/// Takes a device's access away.
pub async fn revoke(app: &App, actor: &Actor, id: &str) -> Result<Value> {
    manageable(&app.store.accounts.now(), actor, id)?;
    let (by, device) = (actor.user.to_string(), id.to_owned());
    app.store
        .writer
        .run(move |db, ledger| {
            devices::revoke(db, &device, ledger.now())?;
            audit::write(db, ledger.now(), &by, "revoke", &device, &json!({}))?;
            ledger.accounts_changed();
            Ok(Outcome::Keep(()))
        })
        .await?;
    one(app, actor, id).await
}

/// One device.
pub async fn one(app: &App, actor: &Actor, id: &str) -> Result<Value> {
    let (devices, _) = list(app, actor, Some(id), None, 1).await?;
    match devices.into_iter().next() {
        Some(device) => Ok(device),
        None => problem(Code::NotFound, "There is no such device."),
    }
}

/// What was refused of a device's changes, newest first.
pub async fn rejected(app: &App, actor: &Actor, id: &str, after: Option<&str>, limit: usize) -> Result<(Vec<Value>, Option<String>)> {
    let device = find(&app.store.accounts.now(), actor, id)?.no;
    let before = after.and_then(|no| no.parse().ok()).unwrap_or(i64::MAX);
    let rows = app.store.readers.run(move |db| Ok(rejections::list(db, device, before, limit + 1)?)).await?;
    let more = rows.len() > limit;
    let page = rows.into_iter().take(limit).collect::<Vec<_>>();
    let next = page.last().filter(|_| more).map(|(no, _)| no.to_string());
    let entry = |(_, rejection): (i64, rejections::Rejection)| {
        json!({
            "table": rejection.table, "record_id": rejection.record, "op_id": rejection.op_id, "code": rejection.code,
            "detail": rejection.detail, "times": rejection.times, "received_at": clock::text(rejection.received_at),
            "body": rejection.body,
        })
    };
    Ok((page.into_iter().map(entry).collect(), next))
}
