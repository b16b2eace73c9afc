//! Who wins: the rules, the two sides, and what to suggest where nobody does.

use std::cmp::Ordering;

use crate::domain::ask::{Case, Question, Reply, Side};
use crate::domain::change::Base;
use crate::domain::merge;
use crate::domain::path;
use crate::domain::record::Content;
use crate::domain::rules::{Function, Granularity, Rule, TableRules};

use super::wanted::{Stop, Wanted, script_stop};
use super::{Because, Decision, Early, Given, Resolution, Suggestion, Version, Why, Winner};

/// What a rule says.
pub(super) enum Word {
    /// One side, or nobody.
    Side(Winner),
    /// A record of its own.
    Record(Content),
}

/// The rule's word between two sides. A script is asked elsewhere.
pub(super) fn winner(rule: Rule, we: Side, they: Side) -> Winner {
    match rule {
        Rule::ManagerWins => match we.role.rank().cmp(&they.role.rank()) {
            Ordering::Greater => Winner::Client,
            Ordering::Less => Winner::Server,
            Ordering::Equal => winner(Rule::LatestWins, we, they),
        },
        Rule::LatestWins if we.edited_at > they.edited_at => Winner::Client,
        Rule::LatestWins | Rule::ServerWins => Winner::Server,
        Rule::ClientWins => Winner::Client,
        Rule::Manual | Rule::Script => Winner::None,
    }
}

/// The rule for a path: its own, that of something it lies in, or the table's.
pub(super) fn rule_of(rules: &TableRules, path: &str) -> Rule {
    let own = std::iter::once(path).chain(path::outer(path)).find_map(|path| match rules.merge.get(path) {
        Some(Function::Rule(rule)) => Some(*rule),
        _ => None,
    });
    own.unwrap_or(rules.rule)
}

/// The one rule that all these paths have, or the table's.
pub(super) fn asked(rules: &TableRules, paths: &[String]) -> Rule {
    let first = paths.first().map_or(rules.rule, |path| rule_of(rules, path));
    if paths.iter().all(|path| rule_of(rules, path) == first) { first } else { rules.rule }
}

/// Of several fields' winners: nobody as long as one waits, the change if it won all.
pub(super) fn overall(winners: &[Winner]) -> Winner {
    let any = |winner| winners.contains(&winner);
    match () {
        () if any(Winner::None) => Winner::None,
        () if winners.iter().all(|winner| *winner == Winner::Client) => Winner::Client,
        () if any(Winner::Merged) => Winner::Merged,
        () => Winner::Server,
    }
}

/// Whose value a composed record has at a path.
pub(super) fn whose(rules: &TableRules, path: &str, composed: &Content, client: &Content, server: &Content) -> Winner {
    let value = merge::at(rules, composed, path);
    match value {
        value if value == merge::at(rules, client, path) => Winner::Client,
        value if value == merge::at(rules, server, path) => Winner::Server,
        _ => Winner::Merged,
    }
}

/// Asks the table's script.
pub(super) fn script(given: &Given<'_>, case: Case) -> Result<Result<Word, Stop>, Early> {
    let question = Question::Resolve(Box::new(case));
    match given.replies.get(&question.key(given.table)) {
        None => Err(Box::new(Decision::Ask(question))),
        Some(Reply::Side(winner)) => Ok(Ok(Word::Side(*winner))),
        Some(Reply::Record(content)) => {
            let field = given.rules.scope_field();
            let scope = field.and_then(|field| given.current.and_then(|current| current.content.field(field)));
            match (field, scope) {
                (Some(field), Some(scope)) if content.field(field).is_none() => Ok(Ok(Word::Record(content.with(field, scope)))),
                (Some(field), scope) if content.field(field) != scope => {
                    Ok(Err(Stop { why: Why::ScriptFailed, sentence: "The script changed whose record it is.".into() }))
                }
                _ => Ok(Ok(Word::Record(content.clone()))),
            }
        }
        Some(reply) => Ok(Err(script_stop(reply))),
    }
}

/// The side of a stored version.
pub(super) fn side(version: &Version) -> Side {
    Side { role: version.role, edited_at: version.edited_at }
}

/// Is a version somebody else's? With a base that is taken exactly as given, the device's own count as the server's, too.
fn foreign(given: &Given<'_>, version: &Version) -> bool {
    !version.own || matches!(given.change.base, Base::Hash(_) | Base::Data(_))
}

/// The other side of a whole record: of the foreign versions since the base the strongest by the rule.
pub(super) fn rival(given: &Given<'_>, current: &Version, rule: Rule) -> Side {
    let strength = |version: &&Version| (if rule == Rule::ManagerWins { version.role.rank() } else { 0 }, version.edited_at);
    let strongest = given.lineage.above.iter().filter(|version| foreign(given, version)).max_by_key(strength);
    side(strongest.unwrap_or(current))
}

/// The other side of a path: the newest foreign version that changed it.
pub(super) fn author(given: &Given<'_>, current: &Version, path: &str) -> Side {
    let lineage = given.lineage;
    let value = |version: &Version| merge::at(given.rules, &version.content, path);
    let changed = lineage.above.iter().enumerate().find(|(place, version)| {
        let before = lineage.above.get(place + 1).or(lineage.base.as_ref());
        let moved = before.is_none_or(|before| before.deleted != version.deleted || value(before) != value(version));
        moved && foreign(given, version)
    });
    side(changed.map_or(current, |(_, version)| version))
}

/// What to suggest: both sides where they changed different fields, else the higher role, else the later edit.
pub(super) fn suggestion(rules: &TableRules, wanted: &Wanted<'_>, current: &Version, deletes: bool, we: Side, they: Side) -> Suggestion {
    if let Some(base) = wanted.base.as_deref()
        && !deletes
        && !current.deleted
        && rules.granularity == Granularity::Record
    {
        let by_field = TableRules { granularity: Granularity::Field, ..rules.clone() };
        let merge = merge::three_way(&by_field, Some(base), &wanted.to, &current.content, true);
        if merge.conflicts.is_empty() {
            return Suggestion { resolution: Resolution::UseMerged, because: Because::Fields, merged: Some(merge.result) };
        }
    }
    let (order, because) = match we.role.rank().cmp(&they.role.rank()) {
        Ordering::Equal => (we.edited_at.cmp(&they.edited_at), Because::Time),
        order => (order, Because::Role),
    };
    match order {
        Ordering::Greater => Suggestion { resolution: Resolution::UseClient, because, merged: None },
        Ordering::Less => Suggestion::server(because),
        Ordering::Equal => Suggestion::server(Because::Tie),
    }
}
