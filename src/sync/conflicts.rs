//! The conflict inbox: who sees which conflicts, lists of them, and one with both sides, its base and the record as it is now.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::sync::Arc;

use rusqlite::Connection;
use serde_json::value::RawValue;

use crate::domain::actor::Actor;
use crate::domain::clock;
use crate::domain::decide::Why;
use crate::domain::ids::DeviceId;
use crate::domain::record::Content;
use crate::domain::rules::Scope;
use crate::protocol::conflicts as wire;
use crate::protocol::problem::Code;
use crate::store;
use crate::store::conflicts::{self, Entry, Of};
use crate::store::live::TableNo;
use crate::store::records::{self, Stored};

use super::differences::{self, Difference};
use super::office::{Office, Table};
use super::{App, Result, problem};

/// Which conflicts a list is to have.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Open ones; `Some(false)`: resolved ones; `None`: all.
    pub open: Option<bool>,
    /// Those of a table.
    pub table: Option<String>,
    /// Those of a record of that table.
    pub record: Option<String>,
    /// Those of a device's changes.
    pub device: Option<String>,
}

/// Whoever asks for conflicts.
#[derive(Debug, Clone)]
pub struct Viewer {
    /// As rules see them.
    pub actor: Actor,
    /// The user's number.
    pub user: i64,
    /// The device's number; `None` for a person in a browser.
    pub device: Option<i64>,
    office: Arc<Office>,
}

impl Viewer {
    /// An actor.
    pub fn of(app: &App, actor: &Actor) -> Result<Viewer> {
        let directory = app.store.accounts.now();
        let device = actor.device.as_ref().and_then(|id| directory.device(id)).map(|device| device.no);
        match directory.user(&actor.user) {
            Some(user) => Ok(Viewer { actor: actor.clone(), user: user.no, device, office: app.office() }),
            None => problem(Code::Unauthorized, "Sign in, or send a device's token: Authorization: Bearer bkr_dev_…"),
        }
    }

    /// A table by its number, where the viewer may read it.
    pub fn table(&self, no: TableNo) -> Option<&Arc<Table>> {
        self.office.numbered(no).filter(|table| self.actor.may_read(&table.rules))
    }

    /// May this viewer see the conflict, whatever its status? A store sees those of its records: of a record that is in its
    /// view now and was then, of office tables those of its own changes. What is no longer its own, and what others wrote into
    /// a record while that was theirs, is for managers.
    pub fn sees(&self, db: &Connection, entry: &Entry) -> store::Result<bool> {
        let conflict = &entry.conflict;
        let table = self.table(conflict.table);
        if self.actor.role.sees_all() {
            return Ok(table.is_some());
        }
        // The same look-up whatever is found.
        let scope = records::scope(db, conflict.table, &conflict.record)?;
        let Some(table) = table else { return Ok(false) };
        if conflict.why == Why::LeftView.word() {
            return Ok(false);
        }
        if table.rules.scope == Scope::Office {
            return Ok(conflict.user == self.user);
        }
        let ours = |scope: &str| self.actor.in_scope(table.rules.scope, scope);
        let here = match &scope {
            Some(scope) => ours(scope) && ours(&entry.scope),
            // A create that waits belongs to nobody but its author.
            None => conflict.user == self.user && conflict.server_version == 0,
        };
        if !here {
            return Ok(false);
        }
        // A list leaves contents out.
        let whole = conflicts::find(db, &conflict.id)?;
        let sides = whole.iter().flat_map(|conflict| [&conflict.client, &conflict.server]).flatten();
        Ok(sides.map(|text| table.scope_of(&Content::trusted(text.clone()))).all(|scope| scope.is_empty() || ours(&scope)))
    }

    /// Where to look for what this viewer may see.
    fn sources(&self, app: &App, table: Option<&Table>) -> Vec<Of> {
        let state = app.store.live.read();
        let tables = self.office.tables().filter(|one| one.rules.scope != Scope::Office && table.is_none_or(|table| table.no == one.no));
        let feeds = tables.flat_map(|table| table.feeds(&self.actor, &state)).map(Of::Feed);
        feeds.chain([Of::User(self.user)]).collect()
    }
}

/// A page of conflicts, newest first, JSON.
pub async fn list(app: &App, actor: &Actor, wanted: Wanted, after: Option<String>, limit: usize) -> Result<Vec<u8>> {
    let viewer = Viewer::of(app, actor)?;
    let table = match &wanted.table {
        Some(name) => Some(super::records::table(app, actor, name)?),
        None => None,
    };
    let device = match &wanted.device {
        Some(id) => match DeviceId::parse(id).ok().and_then(|id| app.store.accounts.now().device(&id).cloned()) {
            Some(device) => Some(device),
            None => return Ok(page(&viewer, &[], None)),
        },
        None => None,
    };
    let sources = match (&table, &wanted.record, &device) {
        _ if !actor.role.sees_all() => viewer.sources(app, table.as_deref()),
        (Some(table), Some(record), _) => vec![Of::Record(table.no, record.clone())],
        (_, _, Some(device)) => vec![Of::User(device.user)],
        (Some(table), None, None) => vec![Of::Table(table.no)],
        (None, _, None) => vec![Of::All],
    };
    // A store's inbox is what is open.
    let statuses: &[bool] = match (wanted.open, actor.role.sees_all()) {
        (Some(true), _) | (None, false) => &[true],
        (Some(false), true) => &[false],
        (Some(false), false) => &[],
        (None, true) => &[true, false],
    };
    let (viewing, statuses, record) = (viewer.clone(), statuses.to_vec(), wanted.record);
    let (table, device) = (table.map(|table| table.no), device.map(|device| device.no));
    let mut found = app
        .store
        .readers
        .run(move |db| {
            let mut found: Vec<Entry> = Vec::new();
            for (of, open) in sources.iter().flat_map(|of| statuses.iter().map(move |open| (of, *open))) {
                let mut left = limit + 1;
                conflicts::list(db, of, open, after.as_deref(), |entry| {
                    let conflict = &entry.conflict;
                    let asked = table.is_none_or(|no| conflict.table == no)
                        && record.as_ref().is_none_or(|id| conflict.record == *id)
                        && device.is_none_or(|no| conflict.device == Some(no));
                    if asked && viewing.sees(db, &entry)? {
                        found.push(entry);
                        left -= 1;
                    }
                    Ok(if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
                })?;
            }
            Ok(found)
        })
        .await?;
    found.sort_by(|a, b| b.conflict.id.cmp(&a.conflict.id));
    found.dedup_by(|a, b| a.conflict.id == b.conflict.id);
    let next = found.get(limit).and_then(|_| found.get(limit - 1)).map(|last| last.conflict.id.clone());
    found.truncate(limit);
    Ok(page(&viewer, &found, next.as_deref()))
}

fn page(viewer: &Viewer, found: &[Entry], next: Option<&str>) -> Vec<u8> {
    let shown: Vec<Shown<'_>> = found.iter().filter_map(|entry| Shown::of(viewer, entry, None)).collect();
    let page = wire::Conflicts { conflicts: shown.iter().map(|shown| shown.wire(false)).collect(), next };
    serde_json::to_vec(&page).unwrap_or_default()
}

/// How many open conflicts a store's user sees.
pub async fn open_of_store(app: &App, actor: &Actor) -> Result<i64> {
    let viewer = Viewer::of(app, actor)?;
    let sources = viewer.sources(app, None);
    let count = app.store.readers.run(move |db| {
        let mut seen = std::collections::HashSet::new();
        for of in &sources {
            conflicts::list(db, of, true, None, |entry| {
                if viewer.sees(db, &entry)? {
                    seen.insert(entry.conflict.id);
                }
                Ok(ControlFlow::Continue(()))
            })?;
        }
        Ok(seen.len() as i64)
    });
    Ok(count.await?)
}

/// One sentence for hidden and absent conflicts.
pub fn absent<T>() -> Result<T> {
    problem(Code::NotFound, "There is no such conflict.")
}

/// One conflict, JSON.
pub async fn one(app: &App, actor: &Actor, id: &str) -> Result<Vec<u8>> {
    let viewer = Viewer::of(app, actor)?;
    let (id, viewing) = (id.to_owned(), viewer.clone());
    let found = app
        .store
        .readers
        .run(move |db| {
            let entry = conflicts::entry(db, &id)?;
            let open = entry.as_ref().is_some_and(|entry| entry.conflict.status == "open");
            match look(db, &viewing, entry)? {
                Some(found) if open || viewing.actor.role.sees_all() => Ok(Some(found)),
                _ => Ok(None),
            }
        })
        .await?;
    let Some((entry, current)) = &found else { return absent() };
    match Shown::of(&viewer, entry, current.as_ref()) {
        Some(shown) => Ok(serde_json::to_vec(&shown.wire(true)).unwrap_or_default()),
        None => absent(),
    }
}

/// A conflict that the viewer may see, whatever its status, and its record as it is now; by the same statements for one that
/// is hidden and one that is not there.
pub fn look(db: &Connection, viewer: &Viewer, entry: Option<Entry>) -> store::Result<Option<(Entry, Option<Stored>)>> {
    let place = entry.as_ref().map_or((0, ""), |entry| (entry.conflict.table, &entry.conflict.record));
    let current = records::head(db, place.0, place.1, None)?;
    match entry {
        Some(entry) if viewer.sees(db, &entry)? => Ok(Some((entry, current))),
        Some(_) => Ok(None),
        None => {
            if !viewer.actor.role.sees_all() {
                records::scope(db, place.0, place.1)?;
            }
            Ok(None)
        }
    }
}

/// A JSON list of texts.
pub fn texts(list: Option<&str>) -> Vec<String> {
    list.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// A conflict on its way out.
#[derive(Debug)]
pub struct Shown<'a> {
    entry: &'a Entry,
    current: Option<&'a Stored>,
    table: &'a Table,
    fields: Vec<String>,
    winners: Vec<String>,
    differences: Vec<Difference>,
    /// What the edit began from was not the viewer's.
    masked: bool,
}

impl<'a> Shown<'a> {
    /// A conflict that the viewer may see. `None`: its table is no longer among the rules.
    pub fn of(viewer: &'a Viewer, entry: &'a Entry, current: Option<&'a Stored>) -> Option<Shown<'a>> {
        let conflict = &entry.conflict;
        let table = viewer.table(conflict.table)?;
        let fields = texts(Some(&conflict.fields));
        let winners = conflict.winners.as_deref().map_or_else(|| vec![conflict.winner.clone(); fields.len()], |text| texts(Some(text)));
        let content = |text: &Option<String>| text.clone().map(Content::trusted);
        let base = content(&conflict.base);
        let masked = base.as_ref().is_some_and(|base| {
            let scope = table.scope_of(base);
            !scope.is_empty() && !viewer.actor.in_scope(table.rules.scope, &scope)
        });
        let server = content(&conflict.server).filter(|_| !conflict.server_deleted);
        let client = content(&conflict.client);
        let base = base.filter(|_| !masked);
        let differences = differences::between(&table.rules, base.as_ref(), client.as_ref(), server.as_ref(), &fields);
        Some(Shown { entry, current, table, fields, winners, differences, masked })
    }

    /// As it is written. `whole`: with contents.
    pub fn wire(&self, whole: bool) -> wire::Conflict<'_> {
        let Entry { conflict, .. } = self.entry;
        let author = conflict.server_author.as_ref();
        let client = wire::Side {
            user: Some(&self.entry.user),
            role: Some(&conflict.role),
            device_id: self.entry.device.as_ref().map(|(id, _)| id.as_str()),
            device_name: self.entry.device.as_ref().map(|(_, name)| name.as_str()),
            updated_at: clock::text(conflict.updated_at),
            edited_at: Some(clock::text(conflict.edited_at)),
            deleted: self.entry.deletes,
            data: whole.then(|| conflict.client.as_deref().and_then(raw)),
            version: None,
            record_id: None,
        };
        let server = (conflict.server_version > 0).then(|| wire::Side {
            user: self.entry.server_user.as_deref(),
            role: author.map(|author| author.role.as_str()),
            device_id: self.entry.server_device.as_ref().map(|(id, _)| id.as_str()),
            device_name: self.entry.server_device.as_ref().map(|(_, name)| name.as_str()),
            updated_at: clock::text(conflict.server_updated_at),
            edited_at: author.map(|author| clock::text(author.edited_at)),
            deleted: conflict.server_deleted,
            data: whole.then(|| conflict.server.as_deref().filter(|_| !conflict.server_deleted).and_then(raw)),
            version: Some(conflict.server_version),
            record_id: conflict.server_id.as_deref(),
        });
        let current = self.current.map(|stored| wire::Current {
            version: stored.version.version,
            deleted: stored.version.deleted,
            data: raw(stored.version.content.text()).filter(|_| !stored.version.deleted),
        });
        wire::Conflict {
            conflict_id: &conflict.id,
            op_id: conflict.op_id.as_deref().map_or_else(|| Cow::Owned(conflict.op.to_string()), Cow::Borrowed),
            table: self.table.name.as_str(),
            record_id: &conflict.record,
            rule: &conflict.rule,
            reason: &conflict.why,
            detail: conflict.detail.as_deref(),
            winner: &conflict.winner,
            fields: &self.fields,
            winners: &self.winners,
            status: &conflict.status,
            suggested_resolution: &conflict.suggest,
            suggested_because: conflict.because.as_deref(),
            suggested_data: whole.then(|| conflict.merged.as_deref().and_then(raw)),
            created_at: clock::text(conflict.created_at),
            client,
            server,
            base: whole.then(|| conflict.base.as_deref().filter(|_| !self.masked).and_then(raw)),
            version: (conflict.version > 0).then_some(conflict.version),
            current: whole.then_some(current),
            differences: whole.then(|| self.differences.iter().map(|one| self.difference(one)).collect()),
            resolved: conflict.resolved.as_ref().map(|resolved| wire::Resolved {
                resolution: &resolved.resolution,
                by: self.entry.resolved_by.as_deref().unwrap_or_default(),
                at: clock::text(resolved.at),
                version: (resolved.version > 0).then_some(resolved.version),
                reverted: resolved.reverted,
            }),
        }
    }

    fn difference<'b>(&'b self, one: &'b Difference) -> wire::Difference<'b> {
        wire::Difference {
            field: &one.path,
            base: one.base.as_deref().and_then(raw),
            client: one.client.as_deref().and_then(raw),
            server: one.server.as_deref().and_then(raw),
            changed_by: one.changed_by,
            winner: one.conflict.and_then(|place| self.winners.get(place)).map(String::as_str),
        }
    }
}

/// Stored JSON as it goes out.
fn raw(text: &str) -> Option<&RawValue> {
    serde_json::from_str(text).ok()
}
