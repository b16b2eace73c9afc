//! The office's decision about one change: a pure function of the record, its lineage, the table's rules and the actor.
//!
//! The order of the questions is that of PROTOCOL section 4 with its fine print (docs/protocol.md, "What the server decides").

use super::actor::{Actor, Role};
use super::change::{Base, Change, Edit, Position};
use super::clock::Micros;
use super::cursor::Seq;
use super::merge;
use super::record::{Content, Hash, quote, unquote};
use super::rules::{Rule, Scope, TableRules};

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
#[derive(Debug)]
pub struct Given<'a> {
    /// The table's rules.
    pub rules: &'a TableRules,
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

/// Who won.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Winner {
    /// The change.
    Client,
    /// The server's record.
    Server,
    /// Nobody yet.
    None,
}

impl Winner {
    /// The word used in the protocol and the database.
    pub fn word(self) -> &'static str {
        match self {
            Winner::Client => "client",
            Winner::Server => "server",
            Winner::None => "none",
        }
    }
}

/// Why there is a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Both sides changed it; the table's rule was asked.
    Rule,
    /// The device's own newer edit was here before.
    Late,
    /// The base is gone from history, so nothing can be measured.
    Gap,
    /// The record left the device's view.
    LeftView,
    /// Another record of the feed holds the unique key.
    Unique,
}

impl Why {
    /// The word used in the protocol and the database.
    pub fn word(self) -> &'static str {
        match self {
            Why::Rule => "rule",
            Why::Late => "late",
            Why::Gap => "gap",
            Why::LeftView => "left_view",
            Why::Unique => "unique",
        }
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
    /// Who won.
    pub winner: Winner,
    /// The fields in conflict; `*` where the whole record is.
    pub fields: Vec<String>,
    /// Why.
    pub why: Why,
    /// What to write, where the change won.
    pub write: Option<Write>,
    /// What the rule would suggest to a person.
    pub suggest: Winner,
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
}

/// One sentence for everything outside an actor's view, so that a hidden id answers as any other does.
const OUT_OF_VIEW: &str = "This device may not write a record there.";

/// Decides one change.
pub fn decide(given: &Given<'_>) -> Decision {
    let Given { rules, actor, change, current, lineage, .. } = *given;
    let reject = |refusal, sentence: &str| Decision::Reject(refusal, sentence.to_owned());
    let deletes = change.edit == Edit::Delete;

    if let Some(current) = current
        && !actor.in_scope(rules.scope, &current.scope)
    {
        let saw = |version: &Version| actor.in_scope(rules.scope, &version.scope);
        if lineage.base.as_ref().is_some_and(saw) || lineage.above.iter().any(saw) {
            let client = match &change.edit {
                Edit::Whole(content) | Edit::Patch(content) => Some(content.clone()),
                Edit::Delete => None,
            };
            return open(Why::LeftView, client);
        }
        return reject(Refusal::Forbidden, OUT_OF_VIEW);
    }
    if deletes && current.is_none() {
        return Decision::Noop(None);
    }
    let measure = measure(given);
    let (to, scope, filled) = match content(given, measure.base) {
        Ok(parts) => parts,
        Err((refusal, sentence)) => return Decision::Reject(refusal, sentence),
    };
    if !actor.in_scope(rules.scope, &scope) {
        return reject(Refusal::Forbidden, OUT_OF_VIEW);
    }
    let Some(current) = current else {
        return match &change.base {
            Base::Version(_) | Base::Hash(_) | Base::Data(_) => {
                reject(Refusal::Gone, "The record was deleted and purged; create it under a new id.")
            }
            _ if given.purged => reject(Refusal::Gone, "A record with this id was deleted and purged; create it under a new id."),
            _ => Decision::Apply(Write { content: to, scope, deleted: false, filled, sent: None }),
        };
    };
    let client = |to: &Content| (!deletes).then(|| to.clone());
    let same = if deletes { current.deleted } else { !current.deleted && to == current.content };
    if rules.append_only {
        return if same && !deletes {
            Decision::Noop(Some(to))
        } else {
            reject(Refusal::Immutable, "Records of this table are never changed or deleted.")
        };
    }
    if deletes && measure.gap {
        return open(Why::Gap, None);
    }
    if measure.late {
        let mut fields = to.differences(&current.content);
        if fields.is_empty() {
            fields = whole();
        }
        let (winner, suggest, base) = (Winner::Server, Winner::Server, measure.base.cloned());
        return Decision::Conflict(Conflict { winner, fields, why: Why::Late, write: None, suggest, base, client: client(&to) });
    }
    if same {
        return Decision::Noop(client(&to));
    }

    let side = (given.edited_at, actor.role);
    let write = |content: Content| {
        let sent = (!deletes && content != to).then(|| to.clone());
        Write { content, scope: scope.clone(), deleted: deletes, filled, sent }
    };
    let against = |they: (Micros, Role), fields: Vec<String>, content: Content| {
        let winner = winner(rules.rule, side, they);
        Decision::Conflict(Conflict {
            winner,
            fields,
            why: Why::Rule,
            write: (winner == Winner::Client).then(|| write(content)),
            suggest: suggestion(side, they),
            base: measure.base.cloned(),
            client: client(&to),
        })
    };
    if deletes || current.deleted {
        // A tombstone keeps the last live content; an edit that beats a delete is the record that was asked for.
        let result = if deletes { current.content.clone() } else { to.clone() };
        let began_here = lineage.base.as_ref().is_some_and(|base| base.seq == current.seq);
        let alone = !measure.others || (current.deleted && began_here);
        if alone && !measure.unknown {
            return Decision::Apply(write(result));
        }
        return against((current.edited_at, current.role), whole(), result);
    }

    let merge = merge::three_way(measure.base, &to, &current.content, measure.others);
    if merge.conflicts.is_empty() {
        return match merge.result {
            result if result == current.content => Decision::Noop(Some(to)),
            result if result == to => Decision::Apply(write(result)),
            result => Decision::Merge(write(result)),
        };
    }
    if rules.scope_field().is_some_and(|field| merge.conflicts.iter().any(|f| f == field)) && !actor.role.sees_all() {
        return reject(Refusal::Forbidden, OUT_OF_VIEW);
    }
    let content = merge.conflicts.iter().fold(merge.result, |content, field| merge::take(&content, field, to.field(field)));
    against(rival(rules.rule, lineage, current), merge.conflicts, content)
}

/// A conflict that waits for a manager, whole record against whole record.
fn open(why: Why, client: Option<Content>) -> Decision {
    Decision::Conflict(Conflict { winner: Winner::None, fields: whole(), why, write: None, suggest: Winner::Server, base: None, client })
}

fn whole() -> Vec<String> {
    vec!["*".into()]
}

/// What the change is measured against.
struct Measure<'a> {
    /// Content that the edit began from; `None`: unknown.
    base: Option<&'a Content>,
    /// Somebody else changed the record since.
    others: bool,
    /// The base is not in the history.
    gap: bool,
    /// The request's cursor does not tell what the edit began from.
    unknown: bool,
    /// An older edit arrives after the device's own newer one.
    late: bool,
}

static NOTHING: std::sync::LazyLock<Content> = std::sync::LazyLock::new(Content::default);

fn measure<'a>(given: &Given<'a>) -> Measure<'a> {
    let Given { change, lineage, last_sent, .. } = *given;
    let exact = matches!(change.base, Base::Hash(_) | Base::Data(_));
    let old = lineage.above.last().is_some_and(|v| v.received_at < given.horizon);
    let bottomless = lineage.gap || (lineage.base.is_none() && old && matches!(change.base, Base::Absent | Base::Nothing));
    let gap = bottomless && !matches!(change.base, Base::Data(_));
    let others = gap || lineage.above.iter().any(|v| exact || !v.own);
    let deletes = change.edit == Edit::Delete;
    let unknown = change.base == Base::Absent && !deletes && {
        let (seq, finished) = match given.position {
            Position::Presented { seq, finished } => (seq, finished),
            Position::Remembered { seq } => (seq, true),
            Position::Never => (0, true),
        };
        !finished || lineage.above.iter().any(|v| !v.own || !v.clean) || last_sent.is_some_and(|sent| sent.seq > seq && !sent.clean)
    };
    let unknown = unknown && given.current.is_some();
    let mut measure = Measure { base: None, others, gap, unknown, late: false };
    if deletes || given.current.is_none() || unknown {
        return measure;
    }
    let began = lineage.base.as_ref().map_or(0, |base| base.version);
    let began = if let Base::Version(n) = change.base { n } else { began };
    measure.base = match (&change.base, last_sent) {
        (Base::Data(content), _) => Some(content),
        (Base::Hash(_), _) => lineage.base.as_ref().map(|base| &base.content),
        (_, Some(sent)) if sent.version > began && sent.content.is_some() => {
            measure.late = given.derived && change.updated_at.is_some_and(|at| at < sent.updated_at);
            sent.content.as_ref()
        }
        _ => match &lineage.base {
            Some(base) => Some(&base.content),
            None if gap => None,
            None => Some(&*NOTHING),
        },
    };
    measure
}

type Parts = (Content, String, bool);

/// The whole record that the change asks for, its scope, and whether the server filled that in.
fn content(given: &Given<'_>, base: Option<&Content>) -> Result<Parts, (Refusal, String)> {
    let Given { rules, actor, change, current, .. } = *given;
    let kept = current.map(|current| current.scope.clone());
    let to = match &change.edit {
        Edit::Delete => {
            let scope = kept.or_else(|| actor.own_scope(rules.scope).map(str::to_owned));
            return Ok((Content::default(), scope.unwrap_or_default(), false));
        }
        Edit::Whole(content) => content.clone(),
        Edit::Patch(patch) => {
            let target =
                base.filter(|base| !std::ptr::eq(*base, &*NOTHING)).or(current.map(|current| &current.content)).unwrap_or(&NOTHING);
            merge::patch(target, patch).map_err(|e| (Refusal::Invalid, e))?
        }
    };
    for field in &rules.required {
        if to.value(field).is_none() {
            return Err((Refusal::Invalid, format!("The field {field:?} is required.")));
        }
    }
    let Some(field) = rules.scope_field() else {
        return Ok((to, String::new(), false));
    };
    if let Some(value) = to.value(field) {
        let scope = if value.starts_with('"') { unquote(value).into_owned() } else { String::new() };
        if super::ids::StoreId::parse(&scope).is_err() {
            return Err((
                Refusal::Invalid,
                format!("The field {field:?} names whose record it is: 1 to 128 characters of A-Z a-z 0-9 _ . : @ -"),
            ));
        }
        return Ok((to, scope, false));
    }
    let scope = match kept {
        Some(scope) => scope,
        None => match actor.own_scope(rules.scope) {
            Some(own) if !actor.role.sees_all() || rules.scope == Scope::User => own.to_owned(),
            _ => {
                return Err((
                    Refusal::StoreRequired,
                    format!("The field {field:?} is required: this device does not belong to exactly one store."),
                ));
            }
        },
    };
    let to = to.with(field, &quote(&scope));
    Ok((to, scope, true))
}

/// The rule's word between two sides, each with its corrected time and its author's role.
fn winner(rule: Rule, client: (Micros, Role), server: (Micros, Role)) -> Winner {
    match rule {
        Rule::ManagerWins => match client.1.rank().cmp(&server.1.rank()) {
            std::cmp::Ordering::Greater => Winner::Client,
            std::cmp::Ordering::Less => Winner::Server,
            std::cmp::Ordering::Equal => winner(Rule::LatestWins, client, server),
        },
        Rule::LatestWins if client.0 > server.0 => Winner::Client,
        Rule::LatestWins | Rule::ServerWins => Winner::Server,
        Rule::ClientWins => Winner::Client,
        Rule::Manual => Winner::None,
    }
}

/// What to suggest to the person who decides: the higher role, else the later edit.
fn suggestion(client: (Micros, Role), server: (Micros, Role)) -> Winner {
    winner(Rule::ManagerWins, client, server)
}

/// The other side of a whole-record conflict: of the foreign versions since the base the strongest by the rule.
fn rival(rule: Rule, lineage: &Lineage, current: &Version) -> (Micros, Role) {
    let strength = |v: &&Version| (if rule == Rule::ManagerWins { v.role.rank() } else { 0 }, v.edited_at);
    let foreign = lineage.above.iter().filter(|v| !v.own);
    foreign.max_by_key(strength).map_or((current.edited_at, current.role), |v| (v.edited_at, v.role))
}
