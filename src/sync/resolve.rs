//! A person decides: resolving a conflict, taking a decision back, and restoring an old version of a record.
//!
//! Each is one job of the writer, so of two people one is first. Whatever is written passes the same questions as a push of
//! that person, and stands in the record's history as a version of its own.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;

use crate::domain::ask::{Question, Replies};
use crate::domain::change::{Base, Change, Edit, Op, Position};
use crate::domain::clock::Micros;
use crate::domain::decide::{self, Decision, Given, Lineage, Refusal, Resolution, Why, Winner, Write};
use crate::domain::ids::RecordId;
use crate::domain::incoming::Incoming;
use crate::domain::merge;
use crate::domain::path;
use crate::domain::record::{Content, Hash};
use crate::domain::rules::{Granularity, TableRules};
use crate::protocol;
use crate::protocol::conflicts::{ResolveAnswer, ResolveRequest, RestoreRequest};
use crate::protocol::problem::Code;
use crate::sqlite::writer::Outcome;
use crate::store::commits::Event;
use crate::store::conflicts::{self, Conflict, Entry, Resolved};
use crate::store::ledger::Ledger;
use crate::store::records::{self, New, Stored};
use crate::store::{self, audit, unique};

use super::conflicts::{Shown, Viewer, absent, look, texts};
use super::office::Table;
use super::push::ask::Budget;
use super::{App, Error, Result, answer, live, problem};

/// What a job of the writer came to.
enum Step<T> {
    Done(T),
    Refused(Error),
    /// A script or schema has to be asked first; nothing was written.
    Asks(Arc<Table>, Question),
}

/// Stops a job with a problem.
macro_rules! refuse {
    ($error:expr) => {
        return Ok(Step::Refused($error))
    };
}

fn said<T>(code: Code, sentence: impl Into<String>) -> store::Result<Step<T>> {
    Ok(Step::Refused(Error::Problem(code, sentence.into())))
}

/// Runs a job until it has no further question.
async fn settle<T, F>(app: &App, job: F) -> Result<T>
where
    T: Send + 'static,
    F: Fn(&Connection, &mut Ledger, &Replies) -> store::Result<Step<T>> + Clone + Send + 'static,
{
    let (mut replies, mut budget) = (Replies::new(), Budget::of(1, true));
    loop {
        let (job, known) = (job.clone(), replies.clone());
        let step = app.store.writer.run(move |db, ledger| {
            let step = job(db, ledger, &known)?;
            Ok(if matches!(step, Step::Done(_)) { Outcome::Keep(step) } else { Outcome::Undo(step) })
        });
        match step.await? {
            Step::Done(done) => return Ok(done),
            Step::Refused(error) => return Err(error),
            Step::Asks(table, question) => budget.ask(app, vec![(table, question)], &mut replies).await?,
        }
    }
}

/// What a person wants of a conflict.
#[derive(Debug, Clone)]
struct Wanted {
    resolution: Resolution,
    /// The record for `use_merged`, and the id that stands in it.
    merged: Option<(Content, Option<serde_json::Value>)>,
    version: Option<i64>,
    revert: bool,
}

fn read(body: &Bytes, most: usize) -> Result<Wanted> {
    let request: ResolveRequest<'_> =
        protocol::object(body).map_err(|e| Error::Problem(Code::InvalidRequest, format!("The body is not understood: {e}.")))?;
    let Some(resolution) = Resolution::parse(&request.resolution) else {
        return problem(Code::InvalidRequest, "resolution is use_server, use_client or use_merged.");
    };
    let merged = match (resolution, request.merged_data) {
        (Resolution::UseMerged, None) => return problem(Code::InvalidRequest, "use_merged needs merged_data, the whole record."),
        (Resolution::UseMerged, Some(raw)) => {
            let too_large = || Error::Problem(Code::PayloadTooLarge, format!("The record is larger than {most} bytes."));
            // Canonical form may be shorter than what was sent, never by more than white space and escapes.
            if raw.get().len() > 8 * most {
                return Err(too_large());
            }
            let incoming =
                Incoming::parse(raw.get()).map_err(|e| Error::Problem(Code::InvalidRecord, format!("merged_data is no record: {e}.")))?;
            if incoming.content.text().len() > most {
                return Err(too_large());
            }
            Some((incoming.content, incoming.id))
        }
        (_, Some(_)) => return problem(Code::InvalidRequest, "merged_data goes with use_merged alone."),
        (_, None) => None,
    };
    Ok(Wanted { resolution, merged, version: request.version, revert: request.revert.unwrap_or(false) })
}

/// Resolves a conflict, or takes an earlier decision back. The answer is JSON.
pub async fn resolve(app: &App, actor: &crate::domain::actor::Actor, id: &str, body: &Bytes) -> Result<Vec<u8>> {
    let wanted = read(body, app.limits.record_bytes)?;
    app.accepts_writes()?;
    let viewer = Viewer::of(app, actor)?;
    let (id, deciding) = (id.to_owned(), viewer.clone());
    let (entry, current) = settle(app, move |db, ledger, replies| decided(db, ledger, replies, &deciding, &id, &wanted)).await?;
    let version = current.as_ref().map(|stored| stored.version.version);
    match Shown::of(&viewer, &entry, current.as_ref()) {
        Some(shown) => {
            let answer = ResolveAnswer { success: true, conflict: shown.wire(true), version };
            Ok(serde_json::to_vec(&answer).unwrap_or_default())
        }
        None => absent(),
    }
}

fn closed<T>(sentence: &str) -> store::Result<Step<T>> {
    said(Code::ConflictClosed, sentence)
}

/// Decides in the writer; gives the conflict and its record as they are then.
fn decided(
    db: &Connection,
    ledger: &mut Ledger,
    replies: &Replies,
    viewer: &Viewer,
    id: &str,
    wanted: &Wanted,
) -> store::Result<Step<(Entry, Option<Stored>)>> {
    let Some((entry, current)) = look(db, viewer, conflicts::entry(db, id)?)? else {
        return said(Code::NotFound, "There is no such conflict.");
    };
    let conflict = &entry.conflict;
    let Some(table) = viewer.table(conflict.table).cloned() else { return said(Code::NotFound, "There is no such conflict.") };
    if !viewer.actor.may_write(&table.rules) {
        return said(Code::Forbidden, format!("A {} may not write {}.", viewer.actor.role.word(), table.name));
    }
    let case = Case::of(db, conflict, &table.rules, current.as_ref())?;
    let reverts = conflict.status != "open";
    if reverts {
        if !viewer.actor.role.manages() {
            return closed("This conflict is decided. A manager may take the decision back.");
        }
        if conflict.resolved.is_some() && !wanted.revert {
            return closed("Somebody has decided this conflict. To take that back, send \"revert\": true.");
        }
        if case.is_decided_so(wanted.resolution) {
            return closed("This conflict is decided so already.");
        }
    }
    let present = case.present();
    let fresh = match wanted.version {
        Some(version) => version == present,
        None if reverts => case.stands_as_decided(wanted.resolution),
        None => case.stands_as_recorded(wanted.resolution),
    };
    if !fresh {
        refuse!(changed(present));
    }
    let edit = match (&wanted.merged, wanted.resolution) {
        (Some((_, Some(id))), _) if id.as_str() != Some(&conflict.record) => {
            return said(Code::InvalidRecord, "\"id\" in merged_data is not the conflict's record.");
        }
        (Some((content, _)), _) => Some(Edit::Whole(content.clone())),
        (None, Resolution::UseServer) if !reverts => None,
        (None, Resolution::UseServer) => match case.servers() {
            Some(edit) => Some(edit),
            None => return closed("What the record was before this conflict is no longer kept."),
        },
        (None, _) => Some(case.clients(reverts)),
    };
    let word = if reverts { "revert" } else { "resolve" };
    if let Some(edit) = edit {
        let Ok(record) = RecordId::parse(&conflict.record) else { return absent_record() };
        let op = Hash::of(format!("{word}/{id}/{}/{present}", wanted.resolution.word()).as_bytes());
        let mut hand = Hand { db, ledger, replies, viewer, table: &table };
        match hand.put(record, edit, current.as_ref(), op, word)? {
            Step::Done(()) => {}
            Step::Refused(error) => refuse!(error),
            Step::Asks(table, question) => return Ok(Step::Asks(table, question)),
        }
    }
    let current = records::head(db, table.no, &conflict.record, None)?;
    let version = current.as_ref().map_or(0, |stored| stored.version.version);
    let now = ledger.now();
    let resolution = wanted.resolution.word();
    conflicts::close(db, id, &Resolved { resolution: resolution.into(), by: viewer.user, at: now, version, reverted: reverts })?;
    let detail =
        serde_json::json!({ "table": table.name.as_str(), "record": conflict.record, "resolution": resolution, "version": version });
    audit::write(db, now, viewer.actor.user.as_str(), word, id, &detail)?;
    match conflicts::entry(db, id)? {
        Some(entry) => {
            let now = current.as_ref().map(|stored| stored.version.content.text());
            ledger.tell(Event::Notice(live::notice(&table, &entry.conflict, now, viewer.device)));
            Ok(Step::Done((entry, current)))
        }
        None => said(Code::NotFound, "There is no such conflict."),
    }
}

fn absent_record<T>() -> store::Result<Step<T>> {
    said(Code::NotFound, "There is no such record.")
}

fn changed(present: i64) -> Error {
    let sentence = match present {
        0 => "The record is not there any more.".to_owned(),
        _ => format!("The record has changed: its version is {present} now. Look at it again, and send that version."),
    };
    Error::Changed(sentence, present)
}

/// A conflict over its record as it is now.
struct Case<'a> {
    conflict: &'a Conflict,
    rules: &'a TableRules,
    current: Option<&'a Stored>,
    fields: Vec<String>,
    winners: Vec<String>,
    base: Option<Content>,
    client: Option<Content>,
    server: Option<Content>,
    /// The version that the last decision left, where it is still kept.
    decided: Option<Stored>,
    /// The change's own record before it was decided by a person, where the conflict is with another record.
    before: Option<Stored>,
}

impl<'a> Case<'a> {
    fn of(db: &Connection, conflict: &'a Conflict, rules: &'a TableRules, current: Option<&'a Stored>) -> store::Result<Case<'a>> {
        let content = |text: &Option<String>| text.clone().map(Content::trusted);
        let fields = texts(Some(&conflict.fields));
        let winners = conflict.winners.as_deref().map_or_else(|| vec![conflict.winner.clone(); fields.len()], |text| texts(Some(text)));
        let version = |number: i64| match current {
            Some(current) => records::numbered(db, current.version.seq, number),
            None => Ok(None),
        };
        let decided = version(conflict.resolved.as_ref().map_or(conflict.version, |resolved| resolved.version))?;
        let before = if conflict.server_id.is_some() { version(conflict.version)? } else { None };
        let (base, client, server) = (content(&conflict.base), content(&conflict.client), content(&conflict.server));
        Ok(Case { conflict, rules, current, fields, winners, base, client, server, decided, before })
    }

    fn present(&self) -> i64 {
        self.current.map_or(0, |stored| stored.version.version)
    }

    /// The whole change waits, not only its paths in conflict.
    fn is_whole(&self) -> bool {
        let why = |wanted: Why| self.conflict.why == wanted.word();
        self.fields.iter().any(|field| field == path::WHOLE)
            || why(Why::Unique)
            || why(Why::Unfit)
            || why(Why::ScriptFailed)
            || why(Why::ScriptBudget)
    }

    /// Was it decided this way already?
    fn is_decided_so(&self, resolution: Resolution) -> bool {
        let won = |winner: Winner| self.winners.iter().all(|word| word == winner.word());
        match (&self.conflict.resolved, resolution) {
            (_, Resolution::UseMerged) => false,
            (Some(resolved), _) => resolved.resolution == resolution.word(),
            (None, Resolution::UseClient) => won(Winner::Client),
            (None, Resolution::UseServer) => won(Winner::Server),
        }
    }

    /// Is what is in conflict still what the conflict says? A person who sent no version saw only that.
    fn stands_as_recorded(&self, resolution: Resolution) -> bool {
        if resolution == Resolution::UseServer || self.present() == self.conflict.version {
            return true;
        }
        let (Some(current), Some(server)) = (self.current, &self.server) else { return false };
        let same = |path: &String| merge::at(self.rules, &current.version.content, path) == merge::at(self.rules, server, path);
        resolution == Resolution::UseClient && !self.is_whole() && !current.version.deleted && self.waiting().into_iter().all(same)
    }

    /// Is it still as the decision left it?
    fn stands_as_decided(&self, resolution: Resolution) -> bool {
        let left = self.conflict.resolved.as_ref().map_or(self.conflict.version, |resolved| resolved.version);
        if self.present() == left {
            return true;
        }
        let (Some(current), Some(decided)) = (self.current, &self.decided) else { return false };
        let (now, then) = (&current.version, &decided.version);
        let same = |path: &String| merge::at(self.rules, &now.content, path) == merge::at(self.rules, &then.content, path);
        resolution != Resolution::UseMerged && !self.is_whole() && now.deleted == then.deleted && self.fields.iter().all(same)
    }

    /// The paths that nobody has won.
    fn waiting(&self) -> Vec<&String> {
        let waiting = self.fields.iter().zip(&self.winners).filter(|(_, winner)| *winner == Winner::None.word());
        waiting.map(|(field, _)| field).collect()
    }

    /// Paths of the record as it is now, taken from a side.
    fn taken<'b>(&self, paths: impl IntoIterator<Item = &'b String>, side: &Content) -> Edit {
        let now = self.current.map(|current| current.version.content.clone()).unwrap_or_default();
        Edit::Whole(merge::take(self.rules, &now, paths, side))
    }

    /// The record with the client's side in it: the paths that wait, or on the way back all of them.
    fn clients(&self, reverts: bool) -> Edit {
        let Some(client) = &self.client else { return Edit::Delete };
        let Some(current) = self.current else { return Edit::Whole(client.clone()) };
        if !self.is_whole() {
            return if reverts { self.taken(&self.fields, client) } else { self.taken(self.waiting(), client) };
        }
        let now = &current.version.content;
        let Some(base) = &self.base else { return self.kept(client.clone()) };
        let merge = merge::three_way(self.rules, Some(base), client, now, true);
        self.kept(merge::take(self.rules, &merge.result, &merge.conflicts, client))
    }

    /// The record with the server's side in it again. `None`: what that was is no longer kept.
    fn servers(&self) -> Option<Edit> {
        let before = match (&self.conflict.server_id, &self.before) {
            (None, _) => self.server.clone().filter(|_| !self.conflict.server_deleted && self.conflict.server_version > 0),
            (Some(_), Some(before)) => Some(before.version.content.clone()).filter(|_| !before.version.deleted),
            (Some(_), None) if self.conflict.version == 0 => None,
            (Some(_), None) => return None,
        };
        let Some(server) = before else { return Some(Edit::Delete) };
        let Some(current) = self.current else { return Some(Edit::Whole(server)) };
        if !self.is_whole() {
            return Some(self.taken(&self.fields, &server));
        }
        // What the decision made of the server's side is undone; what others wrote into other fields since stays.
        let Some(decided) = &self.decided else { return Some(self.kept(server)) };
        let by_field = TableRules { granularity: Granularity::Field, ..self.rules.clone() };
        let merge = merge::three_way(&by_field, Some(&decided.version.content), &server, &current.version.content, true);
        Some(self.kept(merge::take(self.rules, &merge.result, &merge.conflicts, &server)))
    }

    /// A content that stays whose the record is now.
    fn kept(&self, content: Content) -> Edit {
        let scope = self.rules.scope_field().and_then(|field| Some((field, self.current?.version.content.value(field)?)));
        Edit::Whole(match scope {
            Some((field, value)) => content.with(field, value),
            None => content,
        })
    }
}

/// Writes what a person decided.
struct Hand<'a> {
    db: &'a Connection,
    ledger: &'a mut Ledger,
    replies: &'a Replies,
    viewer: &'a Viewer,
    table: &'a Arc<Table>,
}

impl Hand<'_> {
    /// A new version by the same questions as a push of that person, who had the record as it is now.
    fn put(&mut self, id: RecordId, edit: Edit, current: Option<&Stored>, op: Hash, rule: &'static str) -> store::Result<Step<()>> {
        let now = self.ledger.now();
        let base = current.map_or(Base::Nothing, |current| Base::Version(current.version.version));
        let change = Change { id, edit, base, updated_at: Some(now), op_id: None };
        let decision = self.decide(&change, current, now)?;
        match decision {
            Decision::Noop(_) => Ok(Step::Done(())),
            Decision::Apply(write) | Decision::Merge(write) => self.write(&change, write, current, op, rule, now),
            Decision::Ask(question) => Ok(Step::Asks(self.table.clone(), question)),
            Decision::Conflict(conflict) => {
                let sentence = conflict.detail.unwrap_or_else(|| "The record cannot be written as it is.".into());
                said(Code::InvalidRecord, sentence)
            }
            Decision::Reject(Refusal::Gone, _) => {
                let sentence = "The record was deleted and purged, and nothing brings it back. use_server closes the conflict.";
                refuse!(Error::Changed(sentence.into(), 0))
            }
            Decision::Reject(Refusal::Forbidden, sentence) => said(Code::Forbidden, sentence),
            Decision::Reject(Refusal::StoreRequired, sentence) => said(Code::StoreRequired, sentence),
            Decision::Reject(Refusal::Immutable, sentence) => said(Code::Immutable, sentence),
            Decision::Reject(Refusal::Invalid, sentence) => said(Code::InvalidRecord, sentence),
        }
    }

    fn decide(&self, change: &Change, current: Option<&Stored>, now: Micros) -> store::Result<Decision> {
        let table = self.table;
        let purged = current.is_none() && self.ledger.graves() && {
            records::is_purged(self.db, records::grave(table.name.as_str(), change.id.as_str()))?
        };
        let version = current.map(|stored| &stored.version);
        Ok(decide::decide(&Given {
            table: table.name.as_str(),
            rules: &table.rules,
            finishes: table.finishes(),
            replies: self.replies,
            actor: &self.viewer.actor,
            change,
            current: version,
            lineage: &Lineage { above: Vec::new(), base: version.cloned(), gap: false },
            last_sent: None,
            position: Position::Never,
            purged,
            edited_at: now,
            derived: true,
            horizon: now,
        }))
    }

    fn write(
        &mut self,
        change: &Change,
        write: Write,
        current: Option<&Stored>,
        op: Hash,
        rule: &'static str,
        now: Micros,
    ) -> store::Result<Step<()>> {
        let (db, table, id) = (self.db, self.table, change.id.as_str());
        let feed = self.ledger.feed(db, table.no, &write.scope)?;
        let key = table.unique_key(&write.content).filter(|_| !write.deleted);
        if let Some(key) = key
            && unique::holder(db, feed, key)?.is_some_and(|holder| holder != id)
        {
            let names = table.rules.unique.join(", ");
            return said(Code::UniqueTaken, format!("Another record has the same {names}. Change one of the two records first."));
        }
        if let Some(old) = current.filter(|old| !old.version.deleted)
            && let Some(key) = table.unique_key(&old.version.content)
        {
            unique::free(db, old.feed, key, id)?;
        }
        if let Some(key) = key {
            unique::take(db, feed, key, id)?;
        }
        let new = New {
            table: table.no,
            id,
            feed,
            // A person's decision is nobody's own change: every device measures against it as somebody else's.
            device: None,
            user: self.viewer.user,
            role: self.viewer.actor.role,
            op: Op { id: op, body: op, named: false },
            updated_at: now,
            edited_at: now,
            hash: write.content.hash(),
            deleted: write.deleted,
            fidelity: 2,
            rule: Some(rule),
            sent: None,
            content: &write.content,
        };
        records::write(db, self.ledger, &new, current)?;
        Ok(Step::Done(()))
    }
}

/// Writes the content of an old version as a new one. The answer is JSON.
pub async fn restore(
    app: &App,
    actor: &crate::domain::actor::Actor,
    name: &str,
    id: &str,
    version: Option<i64>,
    body: &Bytes,
) -> Result<Vec<u8>> {
    let request: RestoreRequest =
        protocol::object(body).map_err(|e| Error::Problem(Code::InvalidRequest, format!("The body is not understood: {e}.")))?;
    app.accepts_writes()?;
    let table = super::records::table(app, actor, name)?;
    let viewer = Viewer::of(app, actor)?;
    let record = id.to_owned();
    let restored = settle(app, move |db, ledger, replies| {
        restored(&mut Hand { db, ledger, replies, viewer: &viewer, table: &table }, &record, version, request.version)
    });
    let stored = restored.await?;
    let version = stored.version.version;
    let mut out = b"{\"success\":true,\"record\":".to_vec();
    let content = stored.version.content.text().as_bytes();
    answer::record(&mut out, id.as_bytes(), version, stored.version.updated_at, stored.version.deleted, content);
    out.extend_from_slice(b",\"hash\":");
    answer::string(&mut out, &stored.version.hash.to_string());
    out.extend_from_slice(b",\"version\":");
    answer::number(&mut out, version);
    out.push(b'}');
    Ok(out)
}

fn restored(hand: &mut Hand<'_>, id: &str, version: Option<i64>, seen: Option<i64>) -> store::Result<Step<Stored>> {
    let (db, table, actor) = (hand.db, hand.table, &hand.viewer.actor);
    let sees = |stored: &Stored| actor.in_scope(table.rules.scope, &stored.version.scope);
    let Some(current) = records::head(db, table.no, id, None)?.filter(sees) else { return absent_record() };
    let old = version.map_or(Ok(None), |version| records::numbered(db, current.version.seq, version))?;
    let Some(old) = old.filter(sees) else { return said(Code::NotFound, "There is no such version.") };
    if !actor.may_write(&table.rules) {
        return said(Code::Forbidden, format!("A {} may not write {}.", actor.role.word(), table.name));
    }
    let present = current.version.version;
    if seen.is_some_and(|version| version != present) {
        refuse!(changed(present));
    }
    if old.version.deleted {
        return said(
            Code::InvalidRecord,
            "This version is a tombstone: there is no content to restore. To delete the record, push a delete.",
        );
    }
    let Ok(record) = RecordId::parse(id) else { return absent_record() };
    let op = Hash::of(format!("restore/{}/{id}/{}/{present}", table.name, old.version.version).as_bytes());
    match hand.put(record, Edit::Whole(old.version.content), Some(&current), op, "restore")? {
        Step::Done(()) => {}
        Step::Refused(error) => refuse!(error),
        Step::Asks(table, question) => return Ok(Step::Asks(table, question)),
    }
    let Some(now) = records::head(db, table.no, id, None)? else { return absent_record() };
    if now.version.version != present {
        let detail = serde_json::json!({ "table": table.name.as_str(), "record": id, "restored": old.version.version, "version": now.version.version });
        let at = hand.ledger.now();
        audit::write(db, at, hand.viewer.actor.user.as_str(), "restore", &format!("{}/{id}", table.name), &detail)?;
    }
    Ok(Step::Done(now))
}
