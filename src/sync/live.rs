//! Listening: who may, what each sees, and what is said of a commit. The sockets are `http::live`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::auth::ticket::Key;
use crate::domain::actor::Actor;
use crate::domain::clock;
use crate::domain::cursor::{Cursor, Seq};
use crate::domain::decide::Why;
use crate::domain::record::Content;
use crate::domain::rules::Scope;
use crate::hub::{Heard, Listener, Told, View};
use crate::protocol::live as wire;
use crate::store::accounts::Device;
use crate::store::commits::{Change, Circle, Notice, Operation};
use crate::store::conflicts::Conflict;

use super::office::{Office, Table};
use super::{App, Result};

/// Somebody who listens, as the accounts have them now.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As rules see them.
    pub actor: Actor,
    /// The device; `None` for a person in a browser.
    pub device: Option<Arc<Device>>,
    /// What ends the connection when it changes.
    pub access: i64,
    user: i64,
    view: i64,
}

impl Caller {
    /// Whoever holds a key. `None`: nobody does any more, or they may not act.
    pub fn of(app: &App, key: &Key) -> Option<Caller> {
        let directory = app.store.accounts.now();
        let (device, name, session) = match key {
            Key::Device(token) => {
                let device = directory.device_by_token(token).filter(|device| !device.revoked)?;
                (Some(device.clone()), device.actor.user.clone(), None)
            }
            Key::Session(secret) => {
                let (name, access) = app.sessions.holder(secret)?;
                (None, name, Some(access))
            }
        };
        let user = directory.user(&name).filter(|user| user.enabled && session.is_none_or(|access| access == user.access))?;
        let actor = Actor {
            device: device.as_ref().and_then(|device| device.actor.device.clone()),
            user: user.name.clone(),
            role: user.role,
            stores: user.stores.clone(),
        };
        Some(Caller { actor, device, access: user.access, user: user.no, view: user.view })
    }

    /// As the hub knows them.
    pub fn listener(&self) -> Listener {
        let device = self.device.as_ref().map(|device| device.no);
        Listener { device, user: self.user, wide: self.actor.role.sees_all() }
    }

    /// Notes that they were here.
    pub fn seen(&self, app: &App) {
        if let Some(device) = &self.device {
            let now = app.store.clock.now();
            device.activity.note(|seen| seen.seen_at = Some(now));
        }
    }

    /// A position of this view.
    fn cursor(&self, app: &App, seq: Option<Seq>) -> Cursor {
        let state = app.store.live.read();
        Cursor { epoch: state.epoch, seq: seq.unwrap_or(state.head), view: state.view + self.view, tables: 0, start: None }
    }
}

/// Which tables somebody is told of: all until they name some.
#[derive(Debug, Default)]
pub struct Subscription(Option<BTreeSet<String>>);

impl Subscription {
    /// Adds tables; the first to be named are the first to be left.
    pub fn add(&mut self, app: &App, actor: &Actor, tables: Option<Vec<String>>) -> Result<()> {
        let Some(tables) = tables else {
            self.0 = None;
            return Ok(());
        };
        known(app, actor, &tables)?;
        self.0.get_or_insert_default().extend(tables);
        Ok(())
    }

    /// Takes tables out.
    pub fn remove(&mut self, app: &App, actor: &Actor, tables: Option<Vec<String>>) -> Result<()> {
        let office = app.office();
        let all = || office.tables().filter(|table| actor.may_read(&table.rules)).map(|table| table.name.to_string()).collect();
        match tables {
            None => self.0 = Some(BTreeSet::new()),
            Some(tables) => {
                known(app, actor, &tables)?;
                let kept = self.0.get_or_insert_with(all);
                for table in tables {
                    kept.remove(&table);
                }
            }
        }
        Ok(())
    }

    fn tables<'a>(&'a self, office: &'a Office, actor: &'a Actor) -> impl Iterator<Item = &'a Arc<Table>> {
        let wanted = |name: &str| self.0.as_ref().is_none_or(|tables| tables.contains(name));
        office.tables().filter(move |table| actor.may_read(&table.rules) && wanted(table.name.as_str()))
    }

    /// What the actor sees of these tables.
    pub fn views(&self, app: &App, actor: &Actor) -> Vec<View> {
        let office = app.office();
        let view = |table: &Arc<Table>| View {
            table: table.no,
            scopes: table.scopes(actor).map(|scopes| scopes.into_iter().map(Box::from).collect()),
        };
        self.tables(&office, actor).map(view).collect()
    }

    /// Payload of `subscribed`, JSON.
    pub fn payload(&self, app: &App, actor: &Actor) -> String {
        let office = app.office();
        let tables = self.tables(&office, actor).map(|table| table.name.as_str()).collect();
        serde_json::to_string(&wire::Subscribed { tables }).unwrap_or_default()
    }
}

/// All of these are tables that the actor may read.
fn known(app: &App, actor: &Actor, tables: &[String]) -> Result<()> {
    tables.iter().try_for_each(|name| super::records::table(app, actor, name).map(drop))
}

/// Payload of `hello`, JSON.
pub fn hello(app: &App, caller: &Caller) -> String {
    let cursor = caller.cursor(app, None);
    let hello = wire::Hello {
        epoch: format!("{:016x}", cursor.epoch.0),
        cursor: cursor.text(),
        version: env!("CARGO_PKG_VERSION"),
        timestamp: clock::text(app.store.clock.now()),
    };
    serde_json::to_string(&hello).unwrap_or_default()
}

/// The messages that say what came together for a listener.
pub fn messages(app: &App, caller: &Caller, told: &Told) -> Vec<String> {
    let office = app.office();
    let json = |payload: serde_json::Result<String>| payload.unwrap_or_default();
    // News of other rules may still be on their way.
    let shown = |no| office.numbered(no).filter(|table| caller.actor.may_read(&table.rules));
    let mut messages = Vec::new();
    if told.rules || !told.tables.is_empty() {
        let seq = (!told.rules).then_some(told.seq);
        let tables = told.tables.iter().filter_map(|(no, heard)| Some((shown(*no)?.name.as_str(), changes(heard))));
        let hint = wire::Hint { cursor: caller.cursor(app, seq).text(), tables: tables.collect::<BTreeMap<_, _>>() };
        messages.push(wire::message("change_notification", "null", &json(serde_json::to_string(&hint))));
    }
    for notice in &told.notices {
        let Some(table) = shown(notice.table) else { continue };
        let conflict = wire::Conflict {
            conflict_id: &notice.conflict,
            table: table.name.as_str(),
            record_id: &notice.record,
            status: &notice.status,
            suggested_resolution: &notice.suggest,
        };
        messages.push(wire::message("conflict_notification", "null", &json(serde_json::to_string(&conflict))));
    }
    if told.unnamed > 0 {
        let conflicts = wire::Conflicts { count: told.unnamed };
        messages.push(wire::message("conflict_notification", "null", &json(serde_json::to_string(&conflicts))));
    }
    messages
}

fn changes<'a>(heard: &'a Heard) -> wire::Changes<'a> {
    if heard.named.len() as u64 != heard.count {
        return wire::Changes::Count(heard.count);
    }
    // Of several devices, each in its own order.
    let mut named: Vec<&Change> = heard.named.iter().map(|change| &**change).collect();
    named.sort_by_key(|change| change.seq);
    let change = |change: &'a Change| wire::Change {
        id: &change.id,
        operation: change.operation.word(),
        version: (change.operation != Operation::Evict).then_some(change.version),
    };
    wire::Changes::Named(named.into_iter().map(change).collect())
}

/// News of a conflict. `now`: the record as it is, where there is one.
pub fn notice(table: &Table, conflict: &Conflict, now: Option<&str>, by: Option<i64>) -> Notice {
    let circle = match table.rules.scope {
        _ if conflict.why == Why::LeftView.word() => Circle::Managers,
        Scope::Office => Circle::Scopes(vec!["".into()]),
        // A create that waits belongs to nobody but its author.
        _ if now.is_none() && conflict.server_version == 0 => Circle::Author(conflict.user),
        // Who sees all of the sides, as in the inbox.
        _ => {
            let sides = [conflict.client.as_deref(), conflict.server.as_deref(), now];
            let scopes = sides.into_iter().flatten().map(|text| table.scope_of(&Content::trusted(text.to_owned())));
            let scopes: Vec<Box<str>> = scopes.filter(|scope| !scope.is_empty()).map(Into::into).collect();
            if scopes.is_empty() { Circle::Managers } else { Circle::Scopes(scopes) }
        }
    };
    Notice {
        conflict: conflict.id.clone(),
        table: table.no,
        record: conflict.record.clone(),
        status: conflict.status.clone(),
        suggest: conflict.suggest.clone(),
        device: by,
        circle,
    }
}
