//! What a decision depends on: the record as it is, how it came to be so, who asks for what, and under which rules.

use crate::domain::actor::{Actor, Role};
use crate::domain::ask::Replies;
use crate::domain::change::{Base, Change, Position};
use crate::domain::clock::Micros;
use crate::domain::cursor::Seq;
use crate::domain::record::{Content, Hash};
use crate::domain::rules::TableRules;

/// A stored version of a record. A tombstone keeps the last live content.
#[derive(Debug, Clone)]
pub struct Version {
    /// Its commit position.
    pub seq: Seq,
    /// 1, 2, 3 …
    pub version: i64,
    /// It is a tombstone.
    pub deleted: bool,
    /// The app's fields.
    pub content: Content,
    /// Hash of the content.
    pub hash: Hash,
    /// The scope's value: whose feed it is in.
    pub scope: String,
    /// The device that is pushing wrote it.
    pub own: bool,
    /// It is stored as its device sent it (a scope that the server filled in aside).
    pub clean: bool,
    /// Role of its author.
    pub role: Role,
    /// When the edit was made, corrected.
    pub edited_at: Micros,
    /// When the edit was made, by the device's clock.
    pub updated_at: Micros,
    /// When the server accepted it.
    pub received_at: Micros,
}

/// The versions between a change and its base.
#[derive(Debug, Default)]
pub struct Lineage {
    /// Versions newer than the base, newest first.
    pub above: Vec<Version>,
    /// The version that the edit began from.
    pub base: Option<Version>,
    /// The base is not, or no longer, in the record's history.
    pub gap: bool,
}

/// What a device last sent for a record, whatever became of it.
#[derive(Debug, Clone)]
pub struct Sent {
    /// As it sent it; `None` for a delete.
    pub content: Option<Content>,
    /// The device's clock at that edit.
    pub updated_at: Micros,
    /// The record's version after that push.
    pub version: i64,
    /// The database's head after that push.
    pub seq: Seq,
    /// The record was then exactly this.
    pub clean: bool,
}

/// Where a version stands relative to a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Newer than the base.
    Above,
    /// The base itself.
    Base,
    /// Older: the base is not in this history.
    Below,
}

/// Compares a version with a base, walking from the newest down.
pub fn reach(base: &Base, position: Position, version: &Version) -> Reach {
    match base {
        Base::Nothing => Reach::Above,
        Base::Version(n) if version.version == *n => Reach::Base,
        Base::Version(n) if version.version < *n => Reach::Below,
        Base::Version(_) => Reach::Above,
        Base::Hash(hash) if version.hash == *hash && !version.deleted => Reach::Base,
        Base::Data(content) if version.content == *content && !version.deleted => Reach::Base,
        Base::Hash(_) | Base::Data(_) => Reach::Above,
        Base::Absent => match position {
            Position::Presented { seq, .. } | Position::Remembered { seq } if version.seq <= seq => Reach::Base,
            _ => Reach::Above,
        },
    }
}

/// Everything that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The table.
    pub table: &'a str,
    /// The table's rules.
    pub rules: &'a TableRules,
    /// The table has a script that derives, or a schema: every record is finished before it is written.
    pub finishes: bool,
    /// What scripts and schemas were asked already.
    pub replies: &'a Replies,
    /// Who pushes.
    pub actor: &'a Actor,
    /// The change.
    pub change: &'a Change,
    /// The record as it is now.
    pub current: Option<&'a Version>,
    /// How it came to be so since the change's base.
    pub lineage: &'a Lineage,
    /// What this device last sent for it.
    pub last_sent: Option<&'a Sent>,
    /// The position that stands in for an absent base.
    pub position: Position,
    /// The record existed and was purged.
    pub purged: bool,
    /// The change's time on the server's clock.
    pub edited_at: Micros,
    /// The operation had no name of its own.
    pub derived: bool,
    /// Receipts older than this may be gone.
    pub horizon: Micros,
}
