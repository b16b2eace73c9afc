//! Inside the writer's transaction: exactly once, the decision, and its effects.

use std::collections::HashSet;

use bytes::Bytes;

use crate::domain::ask::{Replies, Reply};
use crate::domain::change::{Edit, Op};
use crate::domain::clock;
use crate::domain::decide::{self, Because, Conflict, Decision, Given, Refusal, Suggestion, Why, Winner, Write};
use crate::domain::ids::StoreId;
use crate::domain::limits;
use crate::domain::merge;
use crate::domain::path;
use crate::domain::record::{Content, Hash, unquote};
use crate::domain::rules::{Rule, TableRules};
use crate::protocol::problem::Code;
use crate::store::accounts::Device;
use crate::store::commits::Event;
use crate::store::ledger::Ledger;
use crate::store::live::{Delta, FeedNo};
use crate::store::receipts::{self, Receipt};
use crate::store::records::{self, New, Stored, Written};
use crate::store::rejections::{self, Rejection};
use crate::store::{self, conflicts, unique};
use crate::sync::live;
use crate::sync::office::Table;

use super::lineage::Walk;
use super::repeat::{code_of, reused};
use super::{Frame, Item, Ready, Shown, Verdict};

/// One push at work.
pub(super) struct Job<'a> {
    pub(super) db: &'a rusqlite::Connection,
    pub(super) ledger: &'a mut Ledger,
    pub(super) device: &'a Device,
    pub(super) frame: &'a Frame,
    /// What scripts and schemas said so far.
    pub(super) replies: &'a mut Replies,
    /// Questions may wait for an answer.
    pub(super) patient: bool,
}

impl Job<'_> {
    /// Decides one change and writes what follows.
    pub(super) fn item(&mut self, item: &Item, body: &Bytes) -> store::Result<Verdict> {
        let raw = std::str::from_utf8(&body[item.raw.clone()]).unwrap_or_default();
        let verdict = match &item.ready {
            Ok(ready) => self.change(ready, raw)?,
            Err((code, detail)) => self.refuse_unread(item, raw, *code, detail)?,
        };
        if let Verdict::Rejected { code, detail } = &verdict {
            let op = match (&item.ready, &item.op_id) {
                (Ok(ready), _) => ready.op.id,
                (Err(_), Some(op_id)) => Hash::of(op_id.as_bytes()),
                (Err(_), None) => Hash::of(raw.as_bytes()),
            };
            let rejection = Rejection {
                table: item.table.chars().take(limits::ID_CHARS).collect(),
                record: item.record.clone(),
                op_id: item.op_id.clone(),
                code: code.word().into(),
                detail: detail.clone(),
                body: raw[..raw.floor_char_boundary(limits::REJECTED_BODY_BYTES)].to_owned(),
                times: 1,
                received_at: self.frame.now,
            };
            rejections::keep(self.db, self.device.no, op, &rejection)?;
        }
        Ok(verdict)
    }

    /// A change that could not be read: its answer is remembered if the client named it.
    fn refuse_unread(&mut self, item: &Item, raw: &str, code: Code, detail: &str) -> store::Result<Verdict> {
        let Some(op_id) = &item.op_id else {
            return Ok(Verdict::Rejected { code, detail: detail.to_owned() });
        };
        let op = Op { id: Hash::of(op_id.as_bytes()), body: Hash::of(raw.as_bytes()), named: true };
        if let Some(receipt) = receipts::find(self.db, self.device.no, op.id)? {
            let detail = "This op_id was used for another operation.".to_owned();
            return Ok(match receipt.rejection {
                Some((code, detail)) if receipt.body == op.body => Verdict::Rejected { code: code_of(&code), detail },
                _ => Verdict::Rejected { code: Code::OpIdReused, detail },
            });
        }
        if records::by_op(self.db, self.device.no, op.id)?.is_some() {
            return Ok(reused());
        }
        self.receipt(op, 0, "", "rejected", None, Some((code.word(), detail)), None, clock::Micros::MIN, 0, false)?;
        Ok(Verdict::Rejected { code, detail: detail.to_owned() })
    }

    fn change(&mut self, ready: &Ready, raw: &str) -> store::Result<Verdict> {
        let Ready { table, change, op, .. } = ready;
        // What names a scope out of view is refused wherever its id stands, by the same statements whether that is taken or
        // free, unless the device once saw the record.
        if self.names_foreign(ready) {
            if let Some(verdict) = self.answered(ready, raw, true)? {
                return Ok(verdict);
            }
            let (actor, device) = (&self.device.actor, Some(self.device.no));
            let known =
                |scope: &str, author: Option<i64>, by: Hash| actor.in_scope(table.rules.scope, scope) || (author == device && by == op.id);
            if !records::any_version(self.db, table.no, change.id.as_str(), known)? {
                return self.refuse(ready, Refusal::Forbidden, decide::OUT_OF_VIEW.into());
            }
        }
        let current = records::head(self.db, table.no, change.id.as_str(), Some(self.device.no))?;
        let purged = current.is_none() && self.ledger.graves() && {
            records::is_purged(self.db, records::grave(table.name.as_str(), change.id.as_str()))?
        };
        // An unnamed create of a record that was never there was never answered with anything that a second look would not
        // say again, but for a clash of unique keys and a script that failed.
        let plain = table.rules.unique.is_empty() && !table.finishes();
        let fresh = current.is_none() && !purged && !op.named && change.edit != Edit::Delete && plain;
        if let Some(verdict) = self.answered(ready, raw, !fresh)? {
            return Ok(verdict);
        }
        let (lineage, own) = match self.lineage(ready, current.as_ref())? {
            Walk::Repeat(row) => return self.repeat_row(ready, &row),
            Walk::Lineage(lineage, own) => (lineage, own),
        };
        let last_sent = if current.is_some() { self.last_sent(ready, own)? } else { None };
        let edited_at = clock::correct(change.updated_at, self.frame.offset, self.frame.now);
        let given = Given {
            table: table.name.as_str(),
            rules: &table.rules,
            finishes: table.finishes(),
            replies: self.replies,
            actor: &self.device.actor,
            change,
            current: current.as_ref().map(|stored| &stored.version),
            lineage: &lineage,
            last_sent: last_sent.as_ref(),
            position: self.frame.position,
            purged,
            edited_at,
            derived: !op.named,
            horizon: self.frame.horizon,
        };
        let decision = decide::decide(&given);
        if let (Decision::Ask(question), false) = (&decision, self.patient) {
            // Asked once more, the decision may have a further question.
            self.replies.insert(question.key(table.name.as_str()), Reply::Budget);
            return self.change(ready, raw);
        }
        match decision {
            Decision::Ask(question) => Ok(Verdict::Asks(question)),
            Decision::Apply(write) => self.apply(ready, current.as_ref(), write, "applied"),
            Decision::Merge(write) => self.apply(ready, current.as_ref(), write, "merged"),
            Decision::Noop(sent) => self.noop(ready, current.as_ref(), sent),
            Decision::Conflict(conflict) => self.conflict(ready, current.as_ref(), conflict, None),
            Decision::Reject(refusal, detail) => self.refuse(ready, refusal, detail),
        }
    }

    /// Does the change itself say that the record belongs to somebody outside of the device's view?
    fn names_foreign(&self, ready: &Ready) -> bool {
        let (Edit::Whole(content) | Edit::Patch(content)) = &ready.change.edit else { return false };
        let rules = &ready.table.rules;
        let Some(value) = rules.scope_field().and_then(|field| content.value(field)) else { return false };
        let scope = unquote(value);
        StoreId::parse(&scope).is_ok() && !self.device.actor.in_scope(rules.scope, &scope)
    }

    fn feed(&mut self, table: &Table, scope: &str) -> store::Result<FeedNo> {
        self.ledger.feed(self.db, table.no, scope)
    }

    fn apply(&mut self, ready: &Ready, current: Option<&Stored>, write: Write, status: &'static str) -> store::Result<Verdict> {
        let feed = self.feed(&ready.table, &write.scope)?;
        if let Some(conflict) = self.unique_clash(ready, current, feed, &write)? {
            return Ok(conflict);
        }
        let kind = if status == "merged" { Kind::Merged } else { Kind::Derived };
        let written = self.write(ready, current, &write, feed, kind)?;
        // What was sent is what is stored, unless others' fields came in or the server filled something in.
        let differs = status == "merged" || write.filled || write.sent.is_some() || matches!(ready.change.edit, Edit::Patch(_));
        let data = differs.then(|| Shown {
            version: written.version,
            updated_at: ready.change.updated_at.unwrap_or(self.frame.now),
            deleted: write.deleted,
            content: write.content.into_text(),
        });
        let data = data.filter(|_| self.device.actor.may_read(&ready.table.rules));
        Ok(Verdict::Applied { status, version: Some(written.version), data, op: ready.op.id })
    }

    fn write(&mut self, ready: &Ready, current: Option<&Stored>, write: &Write, feed: FeedNo, kind: Kind<'_>) -> store::Result<Written> {
        let Ready { table, change, op, hash } = ready;
        let plain = !write.filled && write.sent.is_none() && matches!(change.edit, Edit::Whole(_));
        let fidelity = match &write.sent {
            Some(_) if matches!(kind, Kind::Derived) => 3,
            Some(_) => 0,
            None if plain || write.deleted => 2,
            None => 1,
        };
        let new = New {
            table: table.no,
            id: change.id.as_str(),
            feed,
            device: Some(self.device.no),
            user: self.device.user,
            role: self.device.actor.role,
            op: *op,
            updated_at: change.updated_at.unwrap_or(self.frame.now),
            // Of the push, not of the commit: a script that is asked between two rounds is told the same in both.
            edited_at: clock::correct(change.updated_at, self.frame.offset, self.frame.now),
            hash: if plain && !write.deleted { *hash } else { write.content.hash() },
            deleted: write.deleted,
            fidelity,
            rule: if let Kind::Decided(rule) = kind { Some(rule) } else { None },
            sent: write.sent.as_ref().map(|sent| sent.text()),
            content: &write.content,
        };
        if !table.rules.unique.is_empty() {
            if let Some(old) = current.filter(|old| !old.version.deleted)
                && let Some(key) = table.unique_key(&old.version.content)
            {
                unique::free(self.db, old.feed, key, change.id.as_str())?;
            }
            if let Some(key) = table.unique_key(&write.content).filter(|_| !write.deleted) {
                unique::take(self.db, feed, key, change.id.as_str())?;
            }
        }
        records::write(self.db, self.ledger, &new, current)
    }

    /// The conflict with the record that already holds the unique key, if there is one.
    fn unique_clash(&mut self, ready: &Ready, current: Option<&Stored>, feed: FeedNo, write: &Write) -> store::Result<Option<Verdict>> {
        let Some(key) = ready.table.unique_key(&write.content).filter(|_| !write.deleted) else { return Ok(None) };
        let Some(holder) = unique::holder(self.db, feed, key)?.filter(|id| id != ready.change.id.as_str()) else {
            return Ok(None);
        };
        let other = records::head(self.db, ready.table.no, &holder, Some(self.device.no))?;
        let fields: Vec<String> = ready.table.rules.unique.iter().map(|name| path::step(name)).collect();
        let conflict = Conflict {
            winner: Winner::Server,
            winners: vec![Winner::Server; fields.len()],
            fields,
            why: Why::Unique,
            detail: None,
            rule: Rule::ServerWins,
            write: None,
            suggestion: Suggestion::server(Because::Unique),
            base: None,
            client: Some(write.sent.as_ref().unwrap_or(&write.content).clone()),
        };
        self.conflict(ready, current, conflict, other.map(|other| (holder, other))).map(Some)
    }

    fn noop(&mut self, ready: &Ready, current: Option<&Stored>, sent: Option<Content>) -> store::Result<Verdict> {
        let version = current.map_or(0, |stored| stored.version.version);
        let updated_at = ready.change.updated_at.unwrap_or(self.frame.now);
        let id = ready.change.id.as_str();
        // The server may keep another value where the change says what its device had already said and lost.
        let other = current.filter(|stored| sent.as_ref().is_some_and(|sent| *sent != stored.version.content));
        let text = sent.as_ref().map(Content::text);
        self.receipt(ready.op, ready.table.no, id, "noop", None, None, text, updated_at, version, other.is_none())?;
        let data = other.filter(|_| self.device.actor.may_read(&ready.table.rules)).map(Shown::of);
        Ok(Verdict::Applied { status: "noop", version: current.map(|stored| stored.version.version), data, op: ready.op.id })
    }

    /// Records a conflict. `holder`: the other record that it is with, where that is not the change's own.
    fn conflict(
        &mut self,
        ready: &Ready,
        current: Option<&Stored>,
        conflict: Conflict,
        holder: Option<(String, Stored)>,
    ) -> store::Result<Verdict> {
        let Ready { table, change, op, .. } = ready;
        if let Some(write) = &conflict.write {
            let feed = self.feed(table, &write.scope)?;
            if let Some(clash) = self.unique_clash(ready, current, feed, write)? {
                return Ok(clash);
            }
        }
        let mut version = current.map_or(0, |stored| stored.version.version);
        if let Some(write) = &conflict.write {
            let feed = self.feed(table, &write.scope)?;
            version = self.write(ready, current, write, feed, Kind::Decided(conflict.rule.word()))?.version;
        }
        let server = holder.as_ref().map(|(_, other)| other).or(current);
        let feed = match server {
            Some(stored) => stored.feed,
            // A create that waits is in the feed that it asks for.
            None => self.feed(table, &conflict.client.as_ref().map_or_else(String::new, |content| table.scope_of(content)))?,
        };
        let updated_at = change.updated_at.unwrap_or(self.frame.now);
        let mut row = conflicts::Conflict {
            id: uuid::Uuid::new_v7(timestamp(self.frame.now)).to_string(),
            table: table.no,
            record: change.id.as_str().to_owned(),
            feed,
            device: Some(self.device.no),
            user: self.device.user,
            role: self.device.actor.role.word().into(),
            op: op.id,
            op_id: change.op_id.clone(),
            rule: conflict.rule.word().into(),
            winner: conflict.winner.word().into(),
            why: conflict.why.word().into(),
            detail: conflict.detail,
            suggest: conflict.suggestion.resolution.word().into(),
            because: Some(conflict.suggestion.because.word().into()),
            merged: conflict.suggestion.merged.map(Content::into_text),
            fields: serde_json::to_string(&conflict.fields).unwrap_or_default(),
            winners: Some(words(&conflict.winners)),
            status: if conflict.winner == Winner::None { "open" } else { "resolved" }.into(),
            base: conflict.base.map(Content::into_text),
            server: server.map(|stored| stored.version.content.text().to_owned()),
            server_id: holder.as_ref().map(|(id, _)| id.clone()),
            server_version: server.map_or(0, |stored| stored.version.version),
            server_deleted: server.is_some_and(|stored| stored.version.deleted),
            server_updated_at: server.map_or(0, |stored| stored.version.updated_at),
            client: conflict.client.map(Content::into_text),
            updated_at,
            edited_at: clock::correct(change.updated_at, self.frame.offset, self.frame.now),
            version,
            seq: self.ledger.head(),
            created_at: self.frame.now,
            server_author: None,
            resolved: None,
        };
        // The record as it is after this change.
        let now = conflict.write.as_ref().map(|write| write.content.text().to_owned()).or_else(|| row.server.clone());
        let joined = match conflict.winner {
            Winner::None => conflicts::open_of(self.db, table.no, change.id.as_str(), self.device.no)?,
            _ => None,
        };
        let joins = joined.is_some();
        match joined {
            Some(first) => {
                together(&table.rules, &mut row, &first, now.as_deref());
                conflicts::join(self.db, &first.id, &row)?;
                (row.id, row.base) = (first.id, first.base);
            }
            None => {
                conflicts::write(self.db, &row, server.map(|stored| stored.version.seq))?;
                self.ledger.add(feed, Delta { conflicts: 1, ..Delta::default() });
            }
        }
        self.ledger.tell(Event::Notice(live::notice(table, &row, now.as_deref(), Some(self.device.no))));
        // A row tells which conflict it led to only if that is its own.
        if conflict.write.is_none() || joins {
            let (id, sent) = (change.id.as_str(), row.client.clone());
            // What came too late is not what the device last sent: its next edit does not begin from there.
            let outcome = if conflict.why == Why::Late { "late" } else { "conflict" };
            self.receipt(*op, table.no, id, outcome, Some(&row.id), None, sent.as_deref(), updated_at, version, false)?;
        }
        let visible = conflict.why != Why::LeftView && self.device.actor.may_read(&table.rules);
        Ok(Verdict::Conflict { conflict: Box::new(row), visible, recorded: !self.frame.dry_run })
    }

    fn refuse(&mut self, ready: &Ready, refusal: Refusal, detail: String) -> store::Result<Verdict> {
        let code = match refusal {
            Refusal::Gone => Code::Gone,
            Refusal::Forbidden => Code::Forbidden,
            Refusal::StoreRequired => Code::StoreRequired,
            Refusal::Immutable => Code::Immutable,
            Refusal::Invalid => Code::InvalidRecord,
        };
        if ready.op.named {
            let (table, id) = (ready.table.no, ready.change.id.as_str());
            let rejection = Some((code.word(), detail.as_str()));
            self.receipt(ready.op, table, id, "rejected", None, rejection, None, self.frame.now, 0, false)?;
        }
        Ok(Verdict::Rejected { code, detail })
    }

    #[allow(clippy::too_many_arguments, reason = "a receipt is one row, and each caller knows another half of it")]
    fn receipt(
        &mut self,
        op: Op,
        table: i64,
        id: &str,
        outcome: &str,
        conflict: Option<&str>,
        rejection: Option<(&str, &str)>,
        sent: Option<&str>,
        updated_at: clock::Micros,
        version: i64,
        clean: bool,
    ) -> store::Result<()> {
        let (device, seq, received_at) = (self.device.no, self.ledger.head(), self.frame.now);
        let receipt = Receipt { device, op, table, id, outcome, conflict, rejection, sent, updated_at, version, clean, seq, received_at };
        Ok(receipts::write(self.db, &receipt)?)
    }
}

/// A UUIDv7's time. The counter is random, so ids of one moment do not tell their order; nothing asks for it.
fn timestamp(now: clock::Micros) -> uuid::Timestamp {
    uuid::Timestamp::from_unix(uuid::NoContext, (now / 1_000_000) as u64, (now % 1_000_000 * 1_000) as u32)
}

/// How a record comes to differ from what was sent.
#[derive(Clone, Copy)]
enum Kind<'a> {
    /// Not, or only in what the table's script derived.
    Derived,
    /// By what others changed.
    Merged,
    /// By a rule's word.
    Decided(&'a str),
}

/// Who won each field, as a JSON array.
fn words(winners: &[Winner]) -> String {
    let words: Vec<&str> = winners.iter().map(|winner| winner.word()).collect();
    serde_json::to_string(&words).unwrap_or_default()
}

/// What was in conflict before stays so when a later change joins, unless that says there what the server says.
fn together(rules: &TableRules, later: &mut conflicts::Conflict, first: &conflicts::Conflict, server: Option<&str>) {
    let list = |text: Option<&str>| serde_json::from_str::<Vec<String>>(text.unwrap_or_default()).unwrap_or_default();
    let mut fields: Vec<(String, String)> = list(Some(&later.fields)).into_iter().zip(list(later.winners.as_deref())).collect();
    let sides = [later.client.as_deref(), server].map(|side| Content::trusted(side.unwrap_or("{}").into()));
    let later_too: HashSet<String> = fields.iter().map(|(field, _)| field.clone()).collect();
    for (field, winner) in list(Some(&first.fields)).into_iter().zip(list(first.winners.as_deref())) {
        let [client, server] = sides.each_ref().map(|side| merge::at(rules, side, &field));
        // A whole that waits for a rule's word is what the later change says; one that could not be measured stays a whole.
        let differs = if field == path::WHOLE { first.why != Why::Rule.word() } else { client != server };
        if differs && !later_too.contains(&field) {
            fields.push((field, winner));
        }
    }
    if fields.iter().any(|(field, _)| field == path::WHOLE) {
        fields = vec![(path::WHOLE.into(), Winner::None.word().into())];
    }
    fields.sort();
    let (fields, winners): (Vec<String>, Vec<String>) = fields.into_iter().unzip();
    later.fields = serde_json::to_string(&fields).unwrap_or_default();
    later.winners = serde_json::to_string(&winners).ok();
}
