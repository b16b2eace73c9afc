//! The whole record that a change asks for, and whether a record may be written as it is: constraints, script, schema.

use std::borrow::Cow;

use crate::domain::ask::{Question, Reply};
use crate::domain::change::Edit;
use crate::domain::ids::StoreId;
use crate::domain::limits;
use crate::domain::merge;
use crate::domain::record::{Content, quote, unquote};
use crate::domain::rules::{Function, Scope, TableRules};

use super::measure::NOTHING;
use super::{Decision, Early, Given, Refusal, Why, reject};

/// The whole record that the change asks for.
pub(super) struct Wanted<'a> {
    /// Its content; empty for a delete.
    pub(super) to: Cow<'a, Content>,
    /// Whose it is to be.
    pub(super) scope: String,
    /// The server filled that in.
    pub(super) filled: bool,
    /// What the edit began from, where that is known.
    pub(super) base: Option<Cow<'a, Content>>,
    /// What of it the change names, where it does not name all.
    pub(super) patch: Option<&'a Content>,
}

pub(super) fn wanted<'a>(given: &Given<'a>, base: Option<&'a Content>) -> Result<Wanted<'a>, Early> {
    let Given { rules, actor, change, current, .. } = *given;
    let kept = current.map(|current| current.scope.clone());
    let mut wanted =
        Wanted { to: Cow::Borrowed(&*NOTHING), scope: String::new(), filled: false, base: base.map(Cow::Borrowed), patch: None };
    match &change.edit {
        Edit::Delete => {
            let scope = kept.or_else(|| actor.own_scope(rules.scope).map(str::to_owned));
            return Ok(Wanted { scope: scope.unwrap_or_default(), ..wanted });
        }
        Edit::Whole(content) => wanted.to = Cow::Borrowed(content),
        Edit::Patch(patch) => {
            let nothing = base.is_some_and(|base| std::ptr::eq(base, &*NOTHING));
            let target = base.filter(|_| !nothing).or(current.map(|current| &current.content)).unwrap_or(&NOTHING);
            wanted.to = Cow::Owned(merge::patch(target, patch).map_err(|e| reject(Refusal::Invalid, e))?);
            wanted.patch = Some(patch);
            if nothing {
                // It began from nothing in what it names, and leaves alone what it does not.
                wanted.base = Some(Cow::Owned(merge::without(target, patch)));
            }
        }
    }
    for (path, _) in rules.merge.iter().filter(|(_, function)| **function == Function::Sum) {
        if merge::at(rules, &wanted.to, path).is_some_and(|value| value != "null" && !merge::is_number(&value)) {
            return Err(reject(Refusal::Invalid, format!("The field {path:?} is summed up and must be a number.")));
        }
    }
    let Some(field) = rules.scope_field() else {
        return Ok(wanted);
    };
    if wanted.to.value(field).is_some() {
        let Some(scope) = scope_of(rules, &wanted.to) else {
            let sentence = format!("The field {field:?} names whose record it is: 1 to 128 characters of A-Z a-z 0-9 _ . : @ -");
            return Err(reject(Refusal::Invalid, sentence));
        };
        return Ok(Wanted { scope, ..wanted });
    }
    // A record from before the table had a scope names nobody yet.
    let scope = match kept.filter(|scope| !scope.is_empty()) {
        Some(scope) => scope,
        None => match actor.own_scope(rules.scope) {
            Some(own) if !actor.role.sees_all() || rules.scope == Scope::User => own.to_owned(),
            _ => {
                let sentence = format!("The field {field:?} is required: this device does not belong to exactly one store.");
                return Err(reject(Refusal::StoreRequired, sentence));
            }
        },
    };
    Ok(Wanted { to: Cow::Owned(wanted.to.with(field, &quote(&scope))), scope, filled: true, ..wanted })
}

/// Whose record a content says that it is; `None` in office tables, and where the field names nobody.
pub(super) fn scope_of(rules: &TableRules, content: &Content) -> Option<String> {
    let value = content.value(rules.scope_field()?).filter(|value| value.starts_with('"'))?;
    Some(unquote(value).into_owned()).filter(|scope| StoreId::parse(scope).is_ok())
}

/// Why a record cannot be written.
pub(super) struct Stop {
    pub(super) why: Why,
    /// For a person.
    pub(super) sentence: String,
}

/// A content as it may be written: derived fields set, every constraint kept.
pub(super) fn finish(given: &Given<'_>, content: &Content) -> Result<Result<Content, Stop>, Early> {
    let rules = given.rules;
    if given.change.edit == Edit::Delete {
        return Ok(Ok(content.clone()));
    }
    let unfit = |sentence: String| Ok(Err(Stop { why: Why::Unfit, sentence }));
    let mut finished = content.clone();
    if given.finishes {
        let question = Question::Finish(content.clone());
        match given.replies.get(&question.key(given.table)) {
            None => return Err(Box::new(Decision::Ask(question))),
            Some(Reply::Record(content)) => finished = content.clone(),
            Some(Reply::Unfit(sentence)) => return unfit(sentence.clone()),
            Some(reply) => return Ok(Err(script_stop(reply))),
        }
    }
    for field in &rules.required {
        if finished.value(field).is_none() {
            return unfit(format!("The field {field:?} is required."));
        }
    }
    if finished.text().len() > limits::RECORD_BYTES {
        return unfit(format!("The record would be larger than {} bytes.", limits::RECORD_BYTES));
    }
    // A script may not hand a record to somebody else.
    if rules.scope_field().is_some_and(|field| finished.field(field) != content.field(field)) {
        return Ok(Err(Stop { why: Why::ScriptFailed, sentence: "The script changed whose record it is.".into() }));
    }
    Ok(Ok(finished))
}

/// What a script that did not answer leaves behind.
pub(super) fn script_stop(reply: &Reply) -> Stop {
    match reply {
        Reply::Failed(sentence) => Stop { why: Why::ScriptFailed, sentence: sentence.clone() },
        _ => Stop { why: Why::ScriptBudget, sentence: "The table's script ran out of its time.".into() },
    }
}
