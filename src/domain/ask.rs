//! What a decision cannot say by itself: what a table's script and its schema say of a record.
//!
//! `decide` asks, whoever runs scripts and schemas replies, and `decide` is asked again with the replies. So decisions stay
//! pure, and a slow script never runs where others wait.

use std::collections::HashMap;

use super::actor::Role;
use super::clock::Micros;
use super::decide::Winner;
use super::record::{Content, Hash};

/// Something to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// Derive what the script derives, then hold the record against the schema.
    Finish(Content),
    /// Ask the script's `resolve` who wins.
    Resolve(Box<Case>),
}

/// One side of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    /// The author's role.
    pub role: Role,
    /// When the edit was made, corrected.
    pub edited_at: Micros,
}

/// A conflict as a script sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The table.
    pub table: String,
    /// The record's id.
    pub id: String,
    /// Paths in conflict; `*` for the whole record.
    pub fields: Vec<String>,
    /// What the edit began from; `None`: unknown.
    pub base: Option<Content>,
    /// The server's record; `None`: deleted.
    pub server: Option<Content>,
    /// The record that the change asks for; `None`: that it be deleted.
    pub client: Option<Content>,
    /// Both, with the server's values in what is in conflict; `None` where one of them is deleted.
    pub merged: Option<Content>,
    /// Who changed the server's record.
    pub they: Side,
    /// Who pushes.
    pub we: Side,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The record: finished, or as the script composed it.
    Record(Content),
    /// The script chose a side, or nobody (`manual`).
    Side(Winner),
    /// The record does not fit the schema: path and reason.
    Unfit(String),
    /// The script failed, with its message.
    Failed(String),
    /// The script ran out of its time.
    Budget,
}

/// Replies by the question's key.
pub type Replies = HashMap<Hash, Reply>;

impl Question {
    /// Its identity: the same question about the same record of the same table has the same answer.
    pub fn key(&self, table: &str) -> Hash {
        let mut text = Vec::from(table);
        let mut part = |bytes: Option<&[u8]>| match bytes {
            Some(bytes) => {
                text.extend((bytes.len() as u64).to_be_bytes());
                text.extend(bytes);
            }
            None => text.extend(u64::MAX.to_be_bytes()),
        };
        match self {
            Question::Finish(content) => part(Some(content.text().as_bytes())),
            Question::Resolve(case) => {
                for side in [&case.base, &case.server, &case.client, &case.merged] {
                    part(side.as_ref().map(|content| content.text().as_bytes()));
                }
                part(Some(case.id.as_bytes()));
                for field in &case.fields {
                    part(Some(field.as_bytes()));
                }
                for side in [case.they, case.we] {
                    part(Some(side.role.word().as_bytes()));
                    part(Some(&side.edited_at.to_be_bytes()));
                }
            }
        }
        Hash::of(&text)
    }
}
