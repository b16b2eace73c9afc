//! How a record came to be as it is: the walk from its present version down to the base of a change.

use crate::domain::change::{Base, Position};
use crate::domain::decide::{self, Lineage, Reach, Sent};
use crate::domain::limits;
use crate::domain::record::Content;
use crate::store::records::{self, Stored};
use crate::store::{self, receipts};

use super::Ready;
use super::apply::Job;

impl Job<'_> {
    /// Walks from the present state down to the change's base. Also finds the operation itself, where this is a retry.
    pub(super) fn lineage(&self, ready: &Ready, current: Option<&Stored>) -> store::Result<Walk> {
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
        let (mut seen, mut bytes) = (0, 0);
        while let Some(stored) = next {
            (seen, bytes) = (seen + 1, bytes + stored.version.content.text().len());
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
                Some(seq) if seen < limits::LINEAGE_VERSIONS && bytes < limits::LINEAGE_BYTES => {
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
    pub(super) fn last_sent(&self, ready: &Ready, own: Option<Sent>) -> store::Result<Option<Sent>> {
        let receipt = receipts::last_sent(self.db, self.device.no, ready.table.no, ready.change.id.as_str())?;
        Ok(match (own, receipt) {
            (Some(row), Some(receipt)) => Some(if receipt.seq >= row.seq { receipt } else { row }),
            (row, receipt) => row.or(receipt),
        })
    }
}

#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and lives for one decision")]
pub(super) enum Walk {
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
