//! What a decision says: noop, apply, merge, conflict, reject, or a question that comes first.

use crate::domain::ask::Question;
use crate::domain::record::Content;
use crate::domain::rules::Rule;

/// Who won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    /// The change.
    Client,
    /// The server's record.
    Server,
    /// Both: a script composed the record.
    Merged,
    /// Nobody yet.
    None,
}

impl Winner {
    /// The word used in the protocol and the database.
    pub fn word(self) -> &'static str {
        match self {
            Winner::Client => "client",
            Winner::Server => "server",
            Winner::Merged => "merged",
            Winner::None => "none",
        }
    }
}

/// Why there is a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Both sides changed it; a rule was asked.
    Rule,
    /// The device's own newer edit was here before.
    Late,
    /// The base is unknown and the edit older than the record.
    Stale,
    /// The base is gone from history, so what the change moved cannot be measured.
    Gap,
    /// The record left the device's view.
    LeftView,
    /// Another record of the feed holds the unique key.
    Unique,
    /// What came of the merge breaks a constraint of the table.
    Unfit,
    /// The table's script failed.
    ScriptFailed,
    /// The table's script ran out of its time.
    ScriptBudget,
}

impl Why {
    /// The word used in the protocol and the database.
    pub fn word(self) -> &'static str {
        match self {
            Why::Rule => "rule",
            Why::Late => "late",
            Why::Stale => "stale",
            Why::Gap => "gap",
            Why::LeftView => "left_view",
            Why::Unique => "unique",
            Why::Unfit => "unfit",
            Why::ScriptFailed => "script_failed",
            Why::ScriptBudget => "script_budget",
        }
    }
}

/// What is suggested to the person who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The resolution.
    pub resolution: Resolution,
    /// Why this one.
    pub because: Because,
    /// The record to take, where it is neither side's.
    pub merged: Option<Content>,
}

/// How a person decides a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The server's record stays.
    UseServer,
    /// The change's values in what is in conflict.
    UseClient,
    /// A record that the person composed.
    UseMerged,
}

impl Resolution {
    /// The word used in the protocol and the database.
    pub fn word(self) -> &'static str {
        match self {
            Resolution::UseServer => "use_server",
            Resolution::UseClient => "use_client",
            Resolution::UseMerged => "use_merged",
        }
    }

    /// The resolution that a word names.
    pub fn parse(word: &str) -> Option<Resolution> {
        [Resolution::UseServer, Resolution::UseClient, Resolution::UseMerged].into_iter().find(|r| r.word() == word)
    }
}

/// The reason of a suggestion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// A rule decided so already.
    Decided,
    /// The two sides changed different fields, so both fit into one record.
    Fields,
    /// One author's role ranks higher.
    Role,
    /// One edit is the later one.
    Time,
    /// Nothing speaks for the change: equal rank, equal time.
    Tie,
    /// What the change moved cannot be measured.
    UnknownBase,
    /// The record belongs to somebody else by now.
    LeftView,
    /// Another record holds the key.
    Unique,
    /// What came of the merge does not fit the table.
    Unfit,
    /// The table's script did not decide.
    Script,
}

impl Because {
    /// The word used in the protocol and the database.
    pub fn word(self) -> &'static str {
        match self {
            Because::Decided => "decided",
            Because::Fields => "fields",
            Because::Role => "role",
            Because::Time => "time",
            Because::Tie => "tie",
            Because::UnknownBase => "unknown_base",
            Because::LeftView => "left_view",
            Because::Unique => "unique",
            Because::Unfit => "unfit",
            Because::Script => "script",
        }
    }
}

impl Suggestion {
    /// The server's side stays.
    pub fn server(because: Because) -> Suggestion {
        Suggestion { resolution: Resolution::UseServer, because, merged: None }
    }
}

/// A new version to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The content; a tombstone keeps the last live content.
    pub content: Content,
    /// The scope's value.
    pub scope: String,
    /// A tombstone.
    pub deleted: bool,
    /// The server filled in the scope.
    pub filled: bool,
    /// What the change asked for, where that is not what is written.
    pub sent: Option<Content>,
}

/// A conflict to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who won: nobody as long as one field waits, the change if it won every field.
    pub winner: Winner,
    /// The paths in conflict; `*` where the whole record is.
    pub fields: Vec<String>,
    /// Who won each of them.
    pub winners: Vec<Winner>,
    /// Why.
    pub why: Why,
    /// More about why, for a person: a script's message, say.
    pub detail: Option<String>,
    /// The rule that was asked.
    pub rule: Rule,
    /// What to write, where the change won something or brought fields along that are not in conflict.
    pub write: Option<Write>,
    /// What is suggested to a person.
    pub suggestion: Suggestion,
    /// What the edit began from, where that is known.
    pub base: Option<Content>,
    /// The whole record that the change asked for; `None`: a delete.
    pub client: Option<Content>,
}

/// Why a change is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The record was purged; nothing is resurrected.
    Gone,
    /// The actor may not write there.
    Forbidden,
    /// The device has several stores, or none, and must name one.
    StoreRequired,
    /// The table is append-only.
    Immutable,
    /// The content breaks a constraint.
    Invalid,
}

/// What becomes of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time, and it lives for one change")]
pub enum Decision {
    /// The record is so already; with the whole record that was asked for (`None`: a delete).
    Noop(Option<Content>),
    /// Written as asked.
    Apply(Write),
    /// Written with what others changed.
    Merge(Write),
    /// Both sides changed it.
    Conflict(Conflict),
    /// Refused, with a sentence for the person.
    Reject(Refusal, String),
    /// Undecided: a script or schema has to be asked first.
    Ask(Question),
}
