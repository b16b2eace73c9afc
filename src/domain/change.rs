//! A change: what a device asks for, measured against what its edit began from.

use super::clock::Micros;
use super::cursor::Seq;
use super::ids::RecordId;
use super::record::{Content, Hash};

/// What the edit began from, as the request says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// Nothing: a create.
    Nothing,
    /// The version that the client was given.
    Version(i64),
    /// Content with this hash.
    Hash(Hash),
    /// This content.
    Data(Content),
    /// Not said: the request's cursor, or what the device last pulled.
    Absent,
}

/// What is to become of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// The whole record; a missing field is a removal.
    Whole(Content),
    /// A JSON Merge Patch (RFC 7396) over the base.
    Patch(Content),
    /// A tombstone.
    Delete,
}

/// Identity of an operation: the hash of the client's `op_id`, or of the change itself where it has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Op {
    /// The identity.
    pub id: Hash,
    /// Hash of everything that the operation says; the same id with another body is refused.
    pub body: Hash,
    /// The client named it, so it is unique over all records of the device.
    pub named: bool,
}

/// One change of one record, checked for form.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which record.
    pub id: RecordId,
    /// What to make of it.
    pub edit: Edit,
    /// What it began from.
    pub base: Base,
    /// The device's clock at the edit; absent: time of receipt.
    pub updated_at: Option<Micros>,
    /// The client's name for the operation.
    pub op_id: Option<String>,
}

/// What the request as a whole says about what its device had: the base of changes that name none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The request named it, by cursor or timestamp. `finished` is false within an unfinished reset.
    Presented {
        /// Everything up to here the device had.
        seq: Seq,
        /// The pull that gave it was not in the middle of a reset.
        finished: bool,
    },
    /// What this device last presented in a pull.
    Remembered {
        /// Everything up to here the device had.
        seq: Seq,
    },
    /// The device never pulled.
    Never,
}

impl Change {
    /// The operation's identity: the client's `op_id`, or the hash of (table, id, base, `updated_at`, content).
    /// `content` is the hash of the edit's content.
    /// Where the request names its position, that is part of an absent base. Where it does not, `updated_at` tells two edits
    /// apart; without that too, what the device last pulled must.
    pub fn op(&self, table: &str, position: Position, content: Hash) -> Op {
        let mut text = Vec::with_capacity(256);
        let mut part = |bytes: &[u8]| {
            text.extend((bytes.len() as u32).to_be_bytes());
            text.extend(bytes);
        };
        part(table.as_bytes());
        part(self.id.as_str().as_bytes());
        match &self.edit {
            Edit::Whole(_) => part(b"w"),
            Edit::Patch(_) => part(b"p"),
            Edit::Delete => part(b"d"),
        }
        part(&content.0);
        match &self.base {
            Base::Nothing => part(b"n"),
            Base::Version(version) => part(&version.to_be_bytes()),
            Base::Hash(hash) => part(&hash.0),
            Base::Data(content) => {
                part(b"d");
                part(&content.hash().0);
            }
            Base::Absent => part(b"a"),
        }
        part(&self.updated_at.unwrap_or(i64::MIN).to_be_bytes());
        let body = Hash::of(&text);
        let id = match &self.op_id {
            Some(id) => Hash::of(id.as_bytes()),
            // Receipts and rows are the device's own, so the device need not be part of it.
            None => match position {
                Position::Presented { seq, .. } if self.base == Base::Absent => placed(body, seq),
                Position::Remembered { seq } if self.base == Base::Absent && self.updated_at.is_none() => placed(body, seq),
                _ => body,
            },
        };
        Op { id, body, named: self.op_id.is_some() }
    }
}

/// The identity of an operation that began from a position.
fn placed(body: Hash, seq: Seq) -> Hash {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&body.0);
    bytes[16..].copy_from_slice(&seq.to_be_bytes());
    Hash::of(&bytes)
}
