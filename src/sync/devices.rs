//! Devices: who may see, rename and revoke them, and what was refused of theirs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::domain::actor::{Actor, Role};
use crate::domain::clock::{self, Micros};
use crate::domain::cursor::Seq;
use crate::domain::limits;
use crate::protocol::problem::Code;
use crate::sqlite::writer::Outcome;
use crate::store::accounts::{Device, Directory};
use crate::store::live::{State, TableNo};
use crate::store::{audit, conflicts, devices, rejections};

use super::office::Office;
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

/// When it was last seen, or enrolled.
pub fn last_seen(device: &Device) -> Micros {
    device.activity.seen_at().unwrap_or(device.enrolled_at)
}

/// Neither revoked nor archived.
pub fn is_active(device: &Device, now: Micros) -> bool {
    !device.revoked && last_seen(device) > now - ACTIVE_DAYS * clock::DAY
}

/// Have pulls given it the head of every feed in its view? What it pushed itself counts once it has pulled after it.
pub fn in_sync(office: &Office, state: &State, device: &Device) -> bool {
    let (actor, given) = (&device.actor, device.activity.given(office.view + device.view));
    let reached = |table: TableNo, head: Seq| head <= given.get(&table).copied().unwrap_or(0);
    let mut tables = office.tables().filter(|table| actor.may_read(&table.rules));
    if actor.role.sees_all() {
        // There are many feeds, and few that are newer.
        let least = tables.map(|table| given.get(&table.no).copied().unwrap_or(0)).min().unwrap_or(0);
        let readable = |table| office.numbered(table).is_some_and(|table| actor.may_read(&table.rules));
        return state.newer(least).all(|(_, feed)| reached(feed.table, feed.head) || !readable(feed.table));
    }
    tables.all(|table| table.feeds(actor, state).into_iter().all(|feed| reached(table.no, state.head_of(feed))))
}

async fn facts(app: &App) -> Result<Facts> {
    let (now, connected) = (app.store.clock.now(), app.hub.connected());
    let read = move |db: &rusqlite::Connection| {
        Ok(Facts { rows: devices::all(db)?, open: conflicts::open_by_device(db)?, rejected: rejections::counts(db)?, connected, now })
    };
    Ok(app.store.readers.run(read).await?)
}

fn describe(app: &App, row: &devices::Stored, device: &Device, facts: &Facts) -> Value {
    let seen = device.activity.seen();
    let report: Value = seen.report.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let told = |name: &str| report.get(name).cloned().unwrap_or(Value::Null);
    let time = |at: Option<clock::Micros>| at.map(clock::text);
    let status = match device.revoked {
        true => "revoked",
        false if is_active(device, facts.now) => "active",
        false => "archived",
    };
    let in_sync = (!device.revoked).then(|| in_sync(&app.office(), &app.store.live.read(), device));
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
        "reported_at": time(seen.reported_at),
        "in_sync": in_sync,
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
    Ok((page.into_iter().map(|(row, device)| describe(app, row, device, &facts)).collect(), next))
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
