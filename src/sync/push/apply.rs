//! Inside the writer's transaction: exactly once, the decision, and its effects.

use bytes::Bytes;

use crate::domain::change::{Base, Edit, Op, Position};
use crate::domain::clock;
use crate::domain::decide::{self, Conflict, Decision, Given, Lineage, Reach, Refusal, Sent, Why, Winner, Write};
use crate::domain::ids::StoreId;
use crate::domain::limits;
use crate::domain::record::{Content, Hash, unquote};
use crate::protocol::problem::Code;
use crate::store::accounts::Device;
use crate::store::ledger::Ledger;
use crate::store::live::{Delta, FeedNo};
use crate::store::receipts::{self, Receipt};
use crate::store::records::{self, New, Stored, Written};
use crate::store::rejections::{self, Rejection};
use crate::store::{self, conflicts, unique};
use crate::sync::office::Table;

use super::{Frame, Item, Ready, Shown, Verdict};

/// One push at work.
pub(super) struct Job<'a> {
    pub(super) db: &'a rusqlite::Connection,
    pub(super) ledger: &'a mut Ledger,
    pub(super) device: &'a Device,
    pub(super) frame: &'a Frame,
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
        // say again, but for a clash of unique keys.
        let fresh = current.is_none() && !purged && !op.named && change.edit != Edit::Delete && table.rules.unique.is_empty();
        if let Some(verdict) = self.answered(ready, raw, !fresh)? {
            return Ok(verdict);
        }
        let (lineage, own) = match self.lineage(ready, current.as_ref())? {
            Walk::Repeat(row) => return self.repeat_row(ready, &row),
            Walk::Lineage(lineage, own) => (lineage, own),
        };
        let last_sent = if current.is_some() { self.last_sent(ready, own)? } else { None };
        let edited_at = clock::correct(change.updated_at, self.frame.offset, self.frame.now);
        let decision = decide::decide(&Given {
            rules: &table.rules,
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
        });
        match decision {
            Decision::Apply(write) => self.apply(ready, current.as_ref(), write, "applied"),
            Decision::Merge(write) => self.apply(ready, current.as_ref(), write, "merged"),
            Decision::Noop(sent) => self.noop(ready, current.as_ref(), sent),
            Decision::Conflict(conflict) => self.conflict(ready, current.as_ref(), conflict, None),
            Decision::Reject(refusal, detail) => self.refuse(ready, refusal, detail),
        }
    }

    /// The answer of an operation that was here before. `receipts`: it may have left one.
    fn answered(&mut self, ready: &Ready, raw: &str, receipts: bool) -> store::Result<Option<Verdict>> {
        let Ready { table, change, op, .. } = ready;
        if receipts && let Some(receipt) = receipts::find(self.db, self.device.no, op.id)? {
            // What could not be read then (its table was unknown, say) was remembered by its text.
            let same = receipt.body == op.body || (receipt.rejection.is_some() && receipt.body == Hash::of(raw.as_bytes()));
            return if same { self.repeat(ready, &receipt).map(Some) } else { Ok(Some(reused())) };
        }
        if op.named
            && let Some((no, id, row)) = records::by_op(self.db, self.device.no, op.id)?
        {
            let same = no == table.no && id == change.id.as_str() && row.body == op.body;
            return if same { self.repeat_row(ready, &row).map(Some) } else { Ok(Some(reused())) };
        }
        Ok(None)
    }

    /// Does the change itself say that the record belongs to somebody outside of the device's view?
    fn names_foreign(&self, ready: &Ready) -> bool {
        let (Edit::Whole(content) | Edit::Patch(content)) = &ready.change.edit else { return false };
        let rules = &ready.table.rules;
        let Some(value) = rules.scope_field().and_then(|field| content.value(field)) else { return false };
        let scope = unquote(value);
        StoreId::parse(&scope).is_ok() && !self.device.actor.in_scope(rules.scope, &scope)
    }

    /// Walks from the present state down to the change's base. Also finds the operation itself, where this is a retry.
    fn lineage(&self, ready: &Ready, current: Option<&Stored>) -> store::Result<Walk> {
        let Ready { table, change, op, .. } = ready;
        let mut lineage = Lineage::default();
        let mut own: Option<Sent> = None;
        // Where the device's memory or a content stands in for the base, an earlier try may lie below what matches it now.
        let to_the_end = !op.named
            && match change.base {
                Base::Absent => matches!(self.frame.position, Position::Remembered { .. }),
                Base::Hash(_) | Base::Data(_) => true,
                Base::Nothing | Base::Version(_) => false,
            };
        let mut next = current.cloned();
        let mut seen = 0;
        while let Some(stored) = next {
            seen += 1;
            if stored.version.own && stored.op == op.id {
                return Ok(Walk::Repeat(Box::new(stored)));
            }
            if own.is_none() && stored.version.own {
                own = Some(sent_of(&stored));
            }
            let previous = stored.previous;
            if lineage.base.is_none() && !lineage.gap {
                // What a record was while it belonged to others is nobody else's base: a patch over it would show it.
                let hidden = !self.device.actor.in_scope(table.rules.scope, &stored.version.scope);
                match decide::reach(&change.base, self.frame.position, &stored.version) {
                    Reach::Base if hidden && matches!(change.base, Base::Hash(_) | Base::Data(_)) => lineage.above.push(stored.version),
                    Reach::Base if hidden => lineage.gap = true,
                    Reach::Above => lineage.above.push(stored.version),
                    Reach::Base => lineage.base = Some(stored.version),
                    Reach::Below => lineage.gap = true,
                }
            }
            if (lineage.base.is_some() || lineage.gap) && !to_the_end {
                break;
            }
            next = match previous {
                Some(seq) if seen < limits::LINEAGE_VERSIONS => {
                    let older = records::at(self.db, seq, Some(self.device.no))?;
                    lineage.gap |= older.is_none() && lineage.base.is_none();
                    older
                }
                Some(_) => {
                    lineage.gap |= lineage.base.is_none();
                    None
                }
                None => {
                    lineage.gap |= lineage.base.is_none() && matches!(change.base, Base::Version(_) | Base::Hash(_));
                    None
                }
            };
        }
        Ok(Walk::Lineage(lineage, own))
    }

    /// What this device last sent for the record: its newest row, or an answer that left none.
    fn last_sent(&self, ready: &Ready, own: Option<Sent>) -> store::Result<Option<Sent>> {
        let receipt = receipts::last_sent(self.db, self.device.no, ready.table.no, ready.change.id.as_str())?;
        Ok(match (own, receipt) {
            (Some(row), Some(receipt)) => Some(if receipt.seq >= row.seq { receipt } else { row }),
            (row, receipt) => row.or(receipt),
        })
    }

    fn feed(&mut self, table: &Table, scope: &str) -> store::Result<FeedNo> {
        self.ledger.feed(self.db, table.no, scope)
    }

    fn apply(&mut self, ready: &Ready, current: Option<&Stored>, write: Write, status: &'static str) -> store::Result<Verdict> {
        let feed = self.feed(&ready.table, &write.scope)?;
        if let Some(conflict) = self.unique_clash(ready, current, feed, &write)? {
            return Ok(conflict);
        }
        let written = self.write(ready, current, &write, feed, None)?;
        // What was sent is what is stored, unless others' fields came in or the server filled something in.
        let differs = status == "merged" || write.filled || matches!(ready.change.edit, Edit::Patch(_));
        let data = differs.then(|| Shown {
            version: written.version,
            updated_at: ready.change.updated_at.unwrap_or(self.frame.now),
            deleted: write.deleted,
            content: write.content.into_text(),
        });
        let data = data.filter(|_| self.device.actor.may_read(&ready.table.rules));
        Ok(Verdict::Applied { status, version: Some(written.version), data, op: ready.op.id })
    }

    fn write(
        &mut self,
        ready: &Ready,
        current: Option<&Stored>,
        write: &Write,
        feed: FeedNo,
        rule: Option<&str>,
    ) -> store::Result<Written> {
        let Ready { table, change, op, hash } = ready;
        let plain = !write.filled && write.sent.is_none() && matches!(change.edit, Edit::Whole(_));
        let fidelity = match &write.sent {
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
            edited_at: change.updated_at.map(|_| clock::correct(change.updated_at, self.frame.offset, self.frame.now)),
            hash: if plain && !write.deleted { *hash } else { write.content.hash() },
            deleted: write.deleted,
            fidelity,
            rule,
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
        let conflict = Conflict {
            winner: Winner::Server,
            fields: ready.table.rules.unique.clone(),
            why: Why::Unique,
            write: None,
            suggest: Winner::Server,
            base: None,
            client: Some(write.content.clone()),
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
            version = self.write(ready, current, write, feed, Some(table.rules.rule.word()))?.version;
        }
        let server = holder.as_ref().map(|(_, other)| other).or(current);
        let feed = match server {
            Some(stored) => stored.feed,
            None => self.feed(table, "")?,
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
            rule: table.rules.rule.word().into(),
            winner: conflict.winner.word().into(),
            why: conflict.why.word().into(),
            suggest: if conflict.suggest == Winner::Client { "use_client" } else { "use_server" }.into(),
            fields: serde_json::to_string(&conflict.fields).unwrap_or_default(),
            status: if conflict.winner == Winner::None { "open" } else { "resolved" }.into(),
            base: conflict.base.map(|base| base.into_text()),
            server: server.map(|stored| stored.version.content.text().to_owned()),
            server_id: holder.as_ref().map(|(id, _)| id.clone()),
            server_version: server.map_or(0, |stored| stored.version.version),
            server_deleted: server.is_some_and(|stored| stored.version.deleted),
            server_updated_at: server.map_or(0, |stored| stored.version.updated_at),
            client: conflict.client.map(|content| content.into_text()),
            updated_at,
            edited_at: clock::correct(change.updated_at, self.frame.offset, self.frame.now),
            version,
            seq: self.ledger.head(),
            created_at: self.frame.now,
        };
        let joined = match conflict.winner {
            Winner::None => conflicts::open_of(self.db, table.no, change.id.as_str(), self.device.no)?,
            _ => None,
        };
        match joined {
            Some(first) => {
                conflicts::join(self.db, &first.id, &row)?;
                (row.id, row.base) = (first.id, first.base);
            }
            None => {
                conflicts::write(self.db, &row)?;
                self.ledger.add(feed, Delta { conflicts: 1, ..Delta::default() });
            }
        }
        if conflict.write.is_none() {
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

    /// The first status; the record as it is now, as far as the device may see it now.
    fn repeat(&mut self, ready: &Ready, receipt: &receipts::Stored) -> store::Result<Verdict> {
        if let Some((code, detail)) = &receipt.rejection {
            return Ok(Verdict::Rejected { code: code_of(code), detail: detail.clone() });
        }
        let conflict = match &receipt.conflict {
            Some(id) => conflicts::find(self.db, id)?,
            None => None,
        };
        let status = match receipt.outcome.as_str() {
            "noop" => "noop",
            "merged" => "merged",
            _ => "applied",
        };
        self.as_it_is_now(ready, status, conflict)
    }

    fn repeat_row(&mut self, ready: &Ready, row: &Stored) -> store::Result<Verdict> {
        if row.body != ready.op.body {
            return Ok(reused());
        }
        let conflict = conflicts::of_op(self.db, self.device.no, ready.op.id)?;
        self.as_it_is_now(ready, if row.fidelity == 0 { "merged" } else { "applied" }, conflict)
    }

    fn as_it_is_now(&mut self, ready: &Ready, status: &'static str, conflict: Option<conflicts::Conflict>) -> store::Result<Verdict> {
        let rules = &ready.table.rules;
        let current = records::head(self.db, ready.table.no, ready.change.id.as_str(), Some(self.device.no))?;
        let seen = current
            .as_ref()
            .filter(|stored| self.device.actor.may_read(rules) && self.device.actor.in_scope(rules.scope, &stored.version.scope));
        if let Some(mut conflict) = conflict {
            // A conflict that later changes joined is the answer to each of them, under its own name.
            (conflict.op, conflict.op_id) = (ready.op.id, ready.change.op_id.clone());
            // What the server had is shown again only where the device may see that record now, and never what it was
            // while it belonged to others.
            let visible = conflict.why != Why::LeftView.word()
                && self.device.actor.may_read(rules)
                && match &conflict.server_id {
                    Some(holder) => records::head(self.db, ready.table.no, holder, None)?
                        .is_some_and(|stored| self.device.actor.in_scope(rules.scope, &stored.version.scope)),
                    None => seen.is_some(),
                };
            conflict.version = seen.map_or(conflict.version, |stored| stored.version.version);
            return Ok(Verdict::Conflict { conflict: Box::new(conflict), visible, recorded: true });
        }
        let same = |stored: &Stored| match &ready.change.edit {
            Edit::Whole(content) => !stored.version.deleted && *content == stored.version.content,
            Edit::Patch(_) => false,
            Edit::Delete => stored.version.deleted,
        };
        let data = seen.filter(|stored| !same(stored)).map(Shown::of);
        Ok(Verdict::Applied { status, version: seen.map(|stored| stored.version.version), data, op: ready.op.id })
    }
}

#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and lives for one decision")]
enum Walk {
    Repeat(Box<Stored>),
    Lineage(Lineage, Option<Sent>),
}

fn sent_of(stored: &Stored) -> Sent {
    let sent = stored.sent.clone().map(Content::trusted);
    Sent {
        content: (!stored.version.deleted).then(|| sent.unwrap_or_else(|| stored.version.content.clone())),
        updated_at: stored.version.updated_at,
        version: stored.version.version,
        seq: stored.version.seq,
        clean: stored.version.clean,
    }
}

fn reused() -> Verdict {
    Verdict::Rejected { code: Code::OpIdReused, detail: "This op_id was used for another operation.".into() }
}

fn code_of(word: &str) -> Code {
    Code::ALL.iter().copied().find(|code| code.word() == word).unwrap_or(Code::InvalidRecord)
}

/// A UUIDv7's time. The counter is random, so ids of one moment do not tell their order; nothing asks for it.
fn timestamp(now: clock::Micros) -> uuid::Timestamp {
    uuid::Timestamp::from_unix(uuid::NoContext, (now / 1_000_000) as u64, (now % 1_000_000 * 1_000) as u32)
}
