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
#[derive(Debug, Clone, Copy)]
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
    /// What is suggested to a person: what was decided, or else the higher role and the later edit.
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
pub const OUT_OF_VIEW: &str = "This device may not write a record there.";

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
        // What would be refused of a free id is refused of a hidden one in the same words.
        return match content(&Given { current: None, ..*given }, None) {
            Err((refusal, sentence)) => Decision::Reject(refusal, sentence),
            Ok(_) => reject(Refusal::Forbidden, OUT_OF_VIEW),
        };
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
    if measure.late && !(deletes && same) {
        let mut fields = to.differences(&current.content);
        if fields.is_empty() || deletes || current.deleted {
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
            // A decided one has its answer; whoever reverts it does so on purpose.
            suggest: if winner == Winner::None { suggestion(side, they) } else { winner },
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
    if given.current.is_none() || unknown {
        return measure;
    }
    let began = lineage.base.as_ref().map_or(0, |base| base.version);
    let began = if let Base::Version(n) = change.base { n } else { began };
    let newer = last_sent.filter(|sent| !exact && sent.version > began);
    measure.late = newer.is_some_and(|sent| given.derived && change.updated_at.is_some_and(|at| at < sent.updated_at));
    if deletes {
        return measure;
    }
    measure.base = match (&change.base, newer.and_then(|sent| sent.content.as_ref())) {
        (Base::Data(content), _) => Some(content),
        (Base::Hash(_), _) => lineage.base.as_ref().map(|base| &base.content),
        (_, Some(sent)) => Some(sent),
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
    // A record from before the table had a scope names nobody yet.
    let scope = match kept.filter(|scope| !scope.is_empty()) {
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
        Rule::Manual | Rule::Script => Winner::None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{RecordId, StoreId, UserId};

    fn content(json: &str) -> Content {
        Content::from_value(&serde_json::from_str(json).unwrap()).unwrap()
    }

    /// One decision's surroundings. Times are plain numbers; receipts older than 100 may be gone.
    #[derive(Clone)]
    struct Case {
        rules: TableRules,
        role: Role,
        stores: &'static [&'static str],
        /// Oldest first.
        history: Vec<Version>,
        /// The oldest version kept is not the record's first.
        cut: bool,
        sent: Option<Sent>,
        edit: Edit,
        base: Base,
        at: Micros,
        position: Position,
        purged: bool,
        derived: bool,
    }

    fn office(rule: Rule) -> TableRules {
        TableRules { rule, ..TableRules::default() }
    }

    fn store(rule: Rule) -> TableRules {
        TableRules { rule, scope: Scope::Store, ..TableRules::default() }
    }

    /// A version by another device, a store's, stored as sent.
    fn other(version: i64, at: Micros, json: &str) -> Version {
        let content = content(json);
        let scope = content.value("store_id").map(|s| unquote(s).into_owned()).unwrap_or_default();
        Version {
            seq: version * 10,
            version,
            deleted: false,
            hash: content.hash(),
            content,
            scope,
            own: false,
            clean: true,
            role: Role::Store,
            edited_at: at,
            updated_at: at,
            received_at: at.max(200),
        }
    }

    fn own(version: i64, at: Micros, json: &str) -> Version {
        Version { own: true, ..other(version, at, json) }
    }

    fn managers(version: i64, at: Micros, json: &str) -> Version {
        Version { role: Role::Manager, ..other(version, at, json) }
    }

    fn dead(version: Version) -> Version {
        Version { deleted: true, ..version }
    }

    fn whole_record(json: &str, base: Base) -> Case {
        Case {
            rules: office(Rule::LatestWins),
            role: Role::Store,
            stores: &["A"],
            history: Vec::new(),
            cut: false,
            sent: None,
            edit: Edit::Whole(content(json)),
            base,
            at: 500,
            position: Position::Never,
            purged: false,
            derived: false,
        }
    }

    fn patched(json: &str, base: Base) -> Case {
        Case { edit: Edit::Patch(content(json)), ..whole_record("{}", base) }
    }

    fn delete(base: Base) -> Case {
        Case { edit: Edit::Delete, ..whole_record("{}", base) }
    }

    fn lineage(case: &Case) -> Lineage {
        let mut lineage = Lineage::default();
        for version in case.history.iter().rev() {
            match reach(&case.base, case.position, version) {
                Reach::Above => lineage.above.push(version.clone()),
                Reach::Base => {
                    lineage.base = Some(version.clone());
                    return lineage;
                }
                Reach::Below => {
                    lineage.gap = true;
                    return lineage;
                }
            }
        }
        let named = matches!(case.base, Base::Version(_) | Base::Hash(_));
        lineage.gap = case.cut || (named && !case.history.is_empty());
        lineage
    }

    fn written(write: &Write) -> String {
        let mut text = write.content.text().to_owned();
        for (there, word) in [
            (!write.scope.is_empty(), format!(" in {}", write.scope)),
            (write.filled, " filled".into()),
            (write.deleted, " deleted".into()),
        ] {
            if there {
                text += &word;
            }
        }
        text
    }

    fn shown(decision: &Decision) -> String {
        match decision {
            Decision::Noop(_) => "noop".into(),
            Decision::Apply(write) => format!("apply {}", written(write)),
            Decision::Merge(write) => format!("merge {}", written(write)),
            Decision::Reject(refusal, sentence) => {
                assert!(sentence.ends_with('.') || sentence.ends_with('-'), "{sentence:?} is no sentence");
                format!("reject {refusal:?}")
            }
            Decision::Conflict(conflict) => {
                let mut text = format!("{} wins by {}: {}", conflict.winner.word(), conflict.why.word(), conflict.fields.join(","));
                if let Some(write) = &conflict.write {
                    text += &format!(", writes {}", written(write));
                }
                assert_eq!(conflict.write.is_some(), conflict.winner == Winner::Client);
                text
            }
        }
    }

    fn decided(case: &Case) -> Decision {
        let actor = Actor {
            device: None,
            user: UserId::trusted("ben"),
            role: case.role,
            stores: case.stores.iter().map(|s| StoreId::trusted(*s)).collect(),
        };
        let change =
            Change { id: RecordId::trusted("r"), edit: case.edit.clone(), base: case.base.clone(), updated_at: Some(case.at), op_id: None };
        decide(&Given {
            rules: &case.rules,
            actor: &actor,
            change: &change,
            current: case.history.last(),
            lineage: &lineage(case),
            last_sent: case.sent.as_ref(),
            position: case.position,
            purged: case.purged,
            edited_at: case.at,
            derived: case.derived,
            horizon: 100,
        })
    }

    #[track_caller]
    fn check(case: Case, expected: &str) {
        assert_eq!(shown(&decided(&case)), expected);
    }

    const V1: &str = r#"{"a":1,"b":1}"#;
    const V2: &str = r#"{"a":2,"b":1}"#;
    const MINE: &str = r#"{"a":1,"b":9}"#;

    #[test]
    fn no_record() {
        for base in [Base::Nothing, Base::Absent] {
            check(whole_record(V1, base.clone()), r#"apply {"a":1,"b":1}"#);
            check(Case { purged: true, ..whole_record(V1, base) }, "reject Gone");
        }
        for base in [Base::Version(3), Base::Hash(Hash([0; 16])), Base::Data(content(V1))] {
            check(whole_record(V1, base), "reject Gone");
        }
        check(patched(V1, Base::Absent), r#"apply {"a":1,"b":1}"#);
        check(patched(r#"{"a":1,"b":null}"#, Base::Nothing), r#"apply {"a":1}"#);
        check(delete(Base::Version(3)), "noop");
        check(delete(Base::Absent), "noop");
    }

    #[test]
    fn identical_content_and_nobody_else() {
        let one = vec![other(1, 300, V1)];
        for base in [Base::Nothing, Base::Absent, Base::Version(1), Base::Version(7), Base::Data(content(MINE))] {
            check(Case { history: one.clone(), ..whole_record(V1, base) }, "noop");
        }
        for base in [Base::Version(1), Base::Hash(content(V1).hash()), Base::Data(content(V1))] {
            check(Case { history: one.clone(), ..whole_record(MINE, base.clone()) }, r#"apply {"a":1,"b":9}"#);
            check(Case { history: one.clone(), ..whole_record(r#"{"b":1}"#, base.clone()) }, r#"apply {"b":1}"#);
            check(Case { history: one.clone(), ..delete(base.clone()) }, r#"apply {"a":1,"b":1} deleted"#);
            check(Case { history: vec![other(1, 200, V1), dead(other(2, 300, V1))], ..delete(base) }, "noop");
        }
        // Nobody else, by position: what the cursor covers is the base.
        let presented = Position::Presented { seq: 10, finished: true };
        check(Case { history: one.clone(), position: presented, ..whole_record(MINE, Base::Absent) }, r#"apply {"a":1,"b":9}"#);
        check(Case { history: one, position: Position::Remembered { seq: 10 }, ..delete(Base::Absent) }, r#"apply {"a":1,"b":1} deleted"#);
    }

    #[test]
    fn every_rule_between_two_stores_and_by_role() {
        let earlier = vec![other(1, 200, V1), other(2, 499, V2)];
        let same = vec![other(1, 200, V1), other(2, 500, V2)];
        let later = vec![other(1, 200, V1), other(2, 501, V2)];
        let boss = vec![other(1, 200, V1), managers(2, 400, V2)];
        let client = r#"client wins by rule: a,b, writes {"a":1,"b":9}"#;
        let (server, none) = ("server wins by rule: a,b", "none wins by rule: a,b");
        for (rule, history, role, expected) in [
            (Rule::ServerWins, &earlier, Role::Admin, server),
            (Rule::ClientWins, &later, Role::Store, client),
            (Rule::Manual, &earlier, Role::Admin, none),
            (Rule::LatestWins, &earlier, Role::Store, client),
            (Rule::LatestWins, &same, Role::Store, server),
            (Rule::LatestWins, &same, Role::Admin, server),
            (Rule::LatestWins, &later, Role::Admin, server),
            (Rule::LatestWins, &boss, Role::Store, client),
            (Rule::ManagerWins, &later, Role::Manager, client),
            (Rule::ManagerWins, &later, Role::Admin, client),
            (Rule::ManagerWins, &boss, Role::Store, server),
            (Rule::ManagerWins, &boss, Role::Service, server),
            (Rule::ManagerWins, &boss, Role::Admin, client),
            (Rule::ManagerWins, &earlier, Role::Store, client),
            (Rule::ManagerWins, &earlier, Role::Service, client),
            (Rule::ManagerWins, &same, Role::Store, server),
            (Rule::ManagerWins, &later, Role::Store, server),
        ] {
            let case = Case { rules: office(rule), role, history: history.clone(), ..whole_record(MINE, Base::Version(1)) };
            assert_eq!(shown(&decided(&case)), expected, "{rule:?} {role:?} {:?}", history[1].edited_at);
        }
    }

    #[test]
    fn the_other_side_is_the_strongest_since_the_base() {
        let boss_before = vec![other(1, 200, V1), managers(2, 300, V2), other(3, 400, r#"{"a":3,"b":1}"#)];
        let late_before = vec![other(1, 200, V1), other(2, 600, V2), other(3, 400, r#"{"a":3,"b":1}"#)];
        let case =
            |rule, history: &Vec<Version>| Case { rules: office(rule), history: history.clone(), ..whole_record(MINE, Base::Version(1)) };
        check(case(Rule::ManagerWins, &boss_before), "server wins by rule: a,b");
        check(case(Rule::LatestWins, &boss_before), r#"client wins by rule: a,b, writes {"a":1,"b":9}"#);
        check(case(Rule::LatestWins, &late_before), "server wins by rule: a,b");
        // The device's own version on top is not its rival; the foreign one under it is.
        let own_on_top = vec![other(1, 200, V1), other(2, 400, V2), own(3, 600, r#"{"a":3,"b":1}"#)];
        check(case(Rule::LatestWins, &own_on_top), r#"client wins by rule: a,b, writes {"a":1,"b":9}"#);
    }

    #[test]
    fn a_suggestion_stands_beside_what_nobody_decided() {
        for (role, at, suggest) in
            [(Role::Store, 400, Winner::Client), (Role::Store, 600, Winner::Server), (Role::Manager, 600, Winner::Client)]
        {
            let history = vec![other(1, 200, V1), other(2, at, V2)];
            let case = Case { rules: office(Rule::Manual), role, history, ..whole_record(MINE, Base::Version(1)) };
            let Decision::Conflict(conflict) = decided(&case) else { panic!("no conflict") };
            assert_eq!((conflict.winner, conflict.suggest), (Winner::None, suggest));
            assert_eq!((conflict.base, conflict.client), (Some(content(V1)), Some(content(MINE))));
        }
    }

    #[test]
    fn deletes_against_edits() {
        let edited = |at| vec![other(1, 200, V1), other(2, at, V2)];
        let deleted = |at| vec![other(1, 200, V1), dead(other(2, at, V1))];
        // A tombstone keeps the last live content.
        check(Case { history: edited(400), ..delete(Base::Version(1)) }, r#"client wins by rule: *, writes {"a":2,"b":1} deleted"#);
        check(Case { history: edited(600), ..delete(Base::Version(1)) }, "server wins by rule: *");
        check(Case { history: deleted(400), ..whole_record(MINE, Base::Version(1)) }, r#"client wins by rule: *, writes {"a":1,"b":9}"#);
        check(Case { history: deleted(600), ..whole_record(MINE, Base::Version(1)) }, "server wins by rule: *");
        for (rule, winner) in [(Rule::ServerWins, "server wins by rule: *"), (Rule::Manual, "none wins by rule: *")] {
            check(Case { rules: office(rule), history: edited(400), ..delete(Base::Version(1)) }, winner);
            check(Case { rules: office(rule), history: deleted(400), ..whole_record(MINE, Base::Version(1)) }, winner);
        }
        let boss_deleted = vec![other(1, 200, V1), dead(managers(2, 300, V1))];
        check(
            Case { rules: office(Rule::ManagerWins), history: boss_deleted, ..whole_record(MINE, Base::Version(1)) },
            "server wins by rule: *",
        );
        // The content that was deleted, sent again by one who did not know, is an edit against a delete too.
        check(Case { history: deleted(600), ..whole_record(V1, Base::Version(1)) }, "server wins by rule: *");
        // Base is the tombstone: a new life.
        check(
            Case { rules: office(Rule::ServerWins), history: deleted(600), ..whole_record(MINE, Base::Version(2)) },
            r#"apply {"a":1,"b":9}"#,
        );
        let presented = Position::Presented { seq: 20, finished: true };
        check(
            Case { rules: office(Rule::ServerWins), position: presented, history: deleted(600), ..whole_record(MINE, Base::Absent) },
            r#"apply {"a":1,"b":9}"#,
        );
        // A delete over the device's own edits is no conflict.
        check(Case { history: vec![other(1, 200, V1), own(2, 300, V2)], ..delete(Base::Version(1)) }, r#"apply {"a":2,"b":1} deleted"#);
    }

    fn sent(version: i64, at: Micros, json: Option<&str>, clean: bool) -> Option<Sent> {
        Some(Sent { content: json.map(content), updated_at: at, version, seq: version * 10, clean })
    }

    #[test]
    fn own_earlier_edits() {
        let mine = vec![other(1, 200, V1), own(2, 400, V2)];
        let newer =
            Case { history: mine.clone(), sent: sent(2, 400, Some(V2), true), ..whole_record(r#"{"a":3,"b":1}"#, Base::Version(1)) };
        check(newer.clone(), r#"apply {"a":3,"b":1}"#);
        // Older than the device's own newer one: only where the operation has no name of its own.
        check(Case { at: 399, ..newer.clone() }, r#"apply {"a":3,"b":1}"#);
        check(Case { at: 399, derived: true, ..newer.clone() }, "server wins by late: a");
        check(Case { at: 400, derived: true, ..newer }, r#"apply {"a":3,"b":1}"#);
        // With data or a hash the base is taken exactly as given: the own later version counts as the server's side.
        for base in [Base::Data(content(V1)), Base::Hash(content(V1).hash())] {
            let case = Case { history: mine.clone(), sent: sent(2, 400, Some(V2), true), ..whole_record(MINE, base) };
            check(case, r#"client wins by rule: a,b, writes {"a":1,"b":9}"#);
        }
        // A field that stayed as it was last sent, where the server kept another value, stays the server's.
        let kept = vec![own(1, 200, V1)];
        let case =
            Case { history: kept, sent: sent(1, 300, Some(r#"{"a":7,"b":1}"#), false), ..whole_record(r#"{"a":7,"b":2}"#, Base::Nothing) };
        check(case, r#"merge {"a":1,"b":2}"#);
        // A device that deleted and then puts the record back began from its own tombstone.
        let own_grave = vec![other(1, 200, V1), dead(own(2, 400, V1))];
        let back = Case {
            rules: office(Rule::ServerWins),
            history: own_grave,
            sent: sent(2, 400, None, true),
            ..whole_record(MINE, Base::Version(1))
        };
        check(back.clone(), r#"apply {"a":1,"b":9}"#);
        // An edit from before its own delete, arriving late without a name, resurrects nothing.
        check(Case { at: 399, derived: true, ..back }, "server wins by late: *");
        // Nor does a delete from before its own later edit remove that.
        let late = Case { history: mine, sent: sent(2, 400, Some(V2), true), ..delete(Base::Version(1)) };
        check(Case { at: 399, derived: true, ..late.clone() }, "server wins by late: *");
        check(Case { derived: true, ..late }, r#"apply {"a":2,"b":1} deleted"#);
        let twice = vec![other(1, 200, V1), dead(own(2, 400, V1))];
        check(Case { at: 399, derived: true, history: twice, sent: sent(2, 400, None, true), ..delete(Base::Version(1)) }, "noop");
    }

    #[test]
    fn unknown_bases() {
        let history = vec![other(5, 200, V1)];
        let unknown = |base| Case { history: history.clone(), cut: true, ..whole_record(MINE, base) };
        // A version that was purged, one that never was, a hash that nothing has: all that differs is in conflict.
        for base in [Base::Version(3), Base::Version(9), Base::Hash(Hash([7; 16]))] {
            check(unknown(base.clone()), r#"client wins by rule: b, writes {"a":1,"b":9}"#);
            check(Case { rules: office(Rule::ServerWins), ..unknown(base.clone()) }, "server wins by rule: b");
            // A delete whose base is gone cannot be measured at all.
            check(Case { history: history.clone(), cut: true, ..delete(base) }, "none wins by gap: *");
        }
        // A base that the request carries is known even where history is not.
        check(Case { history: history.clone(), ..whole_record(MINE, Base::Data(content(V1))) }, r#"apply {"a":1,"b":9}"#);
        // The cursor tells nothing where others, or merges, or lost conflicts came after it, or the reset was not finished.
        let at = |seq, finished| Position::Presented { seq, finished };
        let conflict = r#"client wins by rule: b, writes {"a":1,"b":9}"#;
        let absent = |position, history: Vec<Version>| Case { position, history, ..whole_record(MINE, Base::Absent) };
        check(absent(at(49, true), history.clone()), conflict);
        check(absent(at(50, false), history.clone()), conflict);
        check(absent(at(50, true), history.clone()), r#"apply {"a":1,"b":9}"#);
        check(absent(Position::Remembered { seq: 49 }, history.clone()), conflict);
        check(absent(Position::Never, history.clone()), conflict);
        let mine = |clean| vec![Version { clean, ..own(5, 200, V1) }];
        check(Case { sent: sent(5, 200, Some(V1), true), ..absent(at(0, true), mine(true)) }, r#"apply {"a":1,"b":9}"#);
        check(Case { sent: sent(5, 200, Some(V1), false), ..absent(at(0, true), mine(false)) }, conflict);
        let lost =
            |seq| Case { sent: Some(Sent { seq, ..sent(5, 300, Some(V2), false).unwrap() }), ..absent(at(50, true), history.clone()) };
        check(lost(50), r#"apply {"a":1,"b":9}"#);
        check(lost(51), conflict);
        // A create over a record whose answers may be gone was perhaps sent before: nothing is known of what it began from.
        for (received_at, expected) in [(99, "server wins by rule: b"), (100, r#"apply {"a":1,"b":9}"#)] {
            let mine = vec![Version { received_at, ..own(1, 99, V1) }];
            let again = Case { rules: office(Rule::ServerWins), history: mine, ..whole_record(MINE, Base::Nothing) };
            check(Case { sent: sent(1, 99, Some(V1), true), ..again }, expected);
        }
    }

    #[test]
    fn views_and_scopes() {
        let (a, b) = (r#"{"store_id":"A","x":1}"#, r#"{"store_id":"B","x":1}"#);
        let case = |history, json: &str, base| Case { rules: store(Rule::LatestWins), history, ..whole_record(json, base) };
        // Filled in for a new record; kept where the change does not carry it; never taken from the pusher then.
        check(case(vec![], r#"{"x":1}"#, Base::Nothing), r#"apply {"store_id":"A","x":1} in A filled"#);
        let boss = Case { role: Role::Manager, stores: &[], ..case(vec![other(1, 200, b)], r#"{"x":2}"#, Base::Version(1)) };
        check(boss.clone(), r#"apply {"store_id":"B","x":2} in B filled"#);
        check(Case { stores: &["A"], ..boss }, r#"apply {"store_id":"B","x":2} in B filled"#);
        let two = Case { stores: &["A", "B"], ..case(vec![other(1, 200, b)], r#"{"x":2}"#, Base::Version(1)) };
        check(two, r#"apply {"store_id":"B","x":2} in B filled"#);
        // Several stores or none must name it, and so must a manager.
        for (role, stores) in [(Role::Store, &["A", "B"][..]), (Role::Store, &[]), (Role::Manager, &[]), (Role::Service, &[])] {
            check(Case { role, stores, ..case(vec![], r#"{"x":1}"#, Base::Nothing) }, "reject StoreRequired");
            check(Case { role, stores, ..case(vec![], r#"{"store_id":null}"#, Base::Nothing) }, "reject StoreRequired");
        }
        // So must a manager who edits a record from before the table had a scope; it can be deleted all the same.
        let nobodys = Case { role: Role::Manager, stores: &[], ..case(vec![other(1, 200, V1)], V2, Base::Version(1)) };
        check(nobodys.clone(), "reject StoreRequired");
        check(Case { edit: Edit::Whole(content(a)), ..nobodys.clone() }, r#"apply {"store_id":"A","x":1} in A"#);
        check(Case { edit: Edit::Delete, ..nobodys }, r#"apply {"a":1,"b":1} deleted"#);
        // Into another store's feed: never, whether the id is taken there or not.
        check(case(vec![], b, Base::Nothing), "reject Forbidden");
        check(case(vec![], b, Base::Version(1)), "reject Forbidden");
        check(case(vec![other(1, 200, b)], b, Base::Nothing), "reject Forbidden");
        check(case(vec![other(1, 200, b)], a, Base::Nothing), "reject Forbidden");
        check(case(vec![other(1, 200, b)], a, Base::Version(1)), "reject Forbidden");
        check(case(vec![other(1, 200, a)], b, Base::Version(1)), "reject Forbidden");
        check(Case { edit: Edit::Delete, ..case(vec![other(1, 200, b)], a, Base::Version(1)) }, "reject Forbidden");
        // A manager moves it.
        check(Case { role: Role::Manager, ..case(vec![other(1, 200, a)], b, Base::Version(1)) }, r#"apply {"store_id":"B","x":1} in B"#);
        // What left the view since the base waits for a manager; what was never in it, or not since, is forbidden.
        let moved = vec![other(1, 200, a), managers(2, 300, b)];
        check(case(moved.clone(), a, Base::Version(1)), "none wins by left_view: *");
        check(Case { edit: Edit::Delete, ..case(moved.clone(), a, Base::Version(1)) }, "none wins by left_view: *");
        check(case(moved.clone(), a, Base::Nothing), "none wins by left_view: *");
        check(case(moved, a, Base::Version(2)), "reject Forbidden");
        // Two stores' user: the move itself is in conflict, and that is not the user's to decide.
        let moved = vec![other(1, 200, a), managers(2, 300, b)];
        check(Case { stores: &["A", "B"], ..case(moved, r#"{"store_id":"A","x":2}"#, Base::Version(1)) }, "reject Forbidden");
        for odd in [r#"{"store_id":7}"#, r#"{"store_id":""}"#, r#"{"store_id":"a b"}"#, r#"{"store_id":["A"]}"#] {
            check(case(vec![], odd, Base::Nothing), "reject Invalid");
        }
        // A person's own records, in a field of another name.
        let person = TableRules { scope: Scope::User, scope_field: Some("owner".into()), ..office(Rule::LatestWins) };
        check(Case { rules: person.clone(), ..whole_record("{}", Base::Nothing) }, r#"apply {"owner":"ben"} in ben filled"#);
        check(
            Case { rules: person.clone(), role: Role::Manager, ..whole_record("{}", Base::Nothing) },
            r#"apply {"owner":"ben"} in ben filled"#,
        );
        check(Case { rules: person, ..whole_record(r#"{"owner":"eva"}"#, Base::Nothing) }, "reject Forbidden");
    }

    #[test]
    fn constraints() {
        let required = TableRules { required: vec!["a".into()], ..office(Rule::LatestWins) };
        for json in [r#"{"b":1}"#, r#"{"a":null}"#] {
            check(Case { rules: required.clone(), ..whole_record(json, Base::Nothing) }, "reject Invalid");
        }
        check(Case { rules: required.clone(), ..whole_record(r#"{"a":0}"#, Base::Nothing) }, r#"apply {"a":0}"#);
        check(
            Case { rules: required.clone(), history: vec![other(1, 200, V1)], ..patched(r#"{"a":null}"#, Base::Version(1)) },
            "reject Invalid",
        );
        check(Case { rules: required, history: vec![other(1, 200, V1)], ..delete(Base::Version(1)) }, r#"apply {"a":1,"b":1} deleted"#);

        let log = TableRules { append_only: true, ..office(Rule::ClientWins) };
        let there = |case: Case| Case { rules: log.clone(), history: vec![other(1, 200, V1)], ..case };
        check(Case { rules: log.clone(), ..whole_record(V1, Base::Nothing) }, r#"apply {"a":1,"b":1}"#);
        check(there(whole_record(V1, Base::Nothing)), "noop");
        check(there(whole_record(MINE, Base::Nothing)), "reject Immutable");
        check(there(whole_record(MINE, Base::Version(1))), "reject Immutable");
        check(there(patched(r#"{"b":9}"#, Base::Version(1))), "reject Immutable");
        check(there(delete(Base::Version(1))), "reject Immutable");
    }

    #[test]
    fn patches() {
        let history = vec![other(1, 200, V1), other(2, 400, r#"{"a":1,"b":1,"c":3}"#)];
        let case = |json, base| Case { history: history.clone(), ..patched(json, base) };
        // Laid over what the edit began from, where that is known, and so no newer field is claimed.
        check(case(r#"{"b":9}"#, Base::Version(1)), r#"client wins by rule: b,c, writes {"a":1,"b":9}"#);
        check(case(r#"{"b":9}"#, Base::Version(2)), r#"apply {"a":1,"b":9,"c":3}"#);
        check(case(r#"{"c":null}"#, Base::Version(2)), r#"apply {"a":1,"b":1}"#);
        // Over the record as it is, where it is not known.
        let unknown = Case { cut: true, history: vec![other(5, 200, V1)], ..patched(r#"{"b":9}"#, Base::Version(3)) };
        check(unknown, r#"client wins by rule: b, writes {"a":1,"b":9}"#);
        check(case(r#"{"b":9}"#, Base::Nothing), r#"client wins by rule: b, writes {"a":1,"b":9,"c":3}"#);
        check(case("{}", Base::Version(2)), "noop");
        check(
            Case { history: history.clone(), edit: Edit::Patch(content(r#"{"b":9}"#)), ..whole_record("{}", Base::Data(content(V1))) },
            r#"client wins by rule: b,c, writes {"a":1,"b":9}"#,
        );
    }
}
