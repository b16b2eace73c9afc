//! Exactly once: the answer of an operation that was here before.

use crate::domain::change::Edit;
use crate::domain::decide::Why;
use crate::domain::record::Hash;
use crate::protocol::problem::Code;
use crate::store::receipts;
use crate::store::records::{self, Stored};
use crate::store::{self, conflicts};

use super::apply::Job;
use super::{Ready, Shown, Verdict};

impl Job<'_> {
    /// The answer of an operation that was here before. `receipts`: it may have left one.
    pub(super) fn answered(&mut self, ready: &Ready, raw: &str, receipts: bool) -> store::Result<Option<Verdict>> {
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

    /// The first status; the record as it is now, as far as the device may see it now.
    pub(super) fn repeat(&mut self, ready: &Ready, receipt: &receipts::Stored) -> store::Result<Verdict> {
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

    pub(super) fn repeat_row(&mut self, ready: &Ready, row: &Stored) -> store::Result<Verdict> {
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

pub(super) fn reused() -> Verdict {
    Verdict::Rejected { code: Code::OpIdReused, detail: "This op_id was used for another operation.".into() }
}

pub(super) fn code_of(word: &str) -> Code {
    Code::ALL.iter().copied().find(|code| code.word() == word).unwrap_or(Code::InvalidRecord)
}
