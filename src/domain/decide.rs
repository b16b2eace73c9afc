//! The office's decision about one change: a pure function of the record, its lineage, the table's rules and the actor.
//!
//! The order of the questions is that of docs/protocol.md, "What the server decides". What a decision depends on is in
//! `given`, what it may say in `decision`. What the edit began from is found in `measure`, who wins in `judge`, what the change
//! asks for in `wanted`.

mod decision;
mod given;
mod judge;
mod measure;
mod wanted;

#[cfg(test)]
mod tests;

use super::ask::{Case, Side};
use super::change::{Base, Edit};
use super::merge;
use super::path;
use super::record::Content;
use super::rules::{Granularity, Rule, Stale};
use measure::Measure;
use wanted::Wanted;

pub use decision::{Because, Conflict, Decision, Refusal, Resolution, Suggestion, Why, Winner, Write};
pub use given::{Given, Lineage, Reach, Sent, Version, reach};

/// One sentence for everything outside an actor's view, so that a hidden id answers as any other does.
pub const OUT_OF_VIEW: &str = "This device may not write a record there.";

/// Decides one change.
pub fn decide(given: &Given<'_>) -> Decision {
    weigh(given).unwrap_or_else(|early| *early)
}

/// A decision that needs no further question.
type Early = Box<Decision>;

fn reject(refusal: Refusal, sentence: impl Into<String>) -> Early {
    Box::new(Decision::Reject(refusal, sentence.into()))
}

fn weigh(given: &Given<'_>) -> Result<Decision, Early> {
    let Given { rules, actor, change, current, .. } = *given;
    let deletes = change.edit == Edit::Delete;
    if let Some(current) = current
        && !actor.in_scope(rules.scope, &current.scope)
    {
        return Err(out_of_view(given));
    }
    if deletes && current.is_none() {
        return Ok(Decision::Noop(None));
    }
    let measure = measure::measure(given);
    let wanted = wanted::wanted(given, measure.base)?;
    if !actor.in_scope(rules.scope, &wanted.scope) {
        return Err(reject(Refusal::Forbidden, OUT_OF_VIEW));
    }
    let weighing = Weighing { given, wanted: &wanted, measure: &measure };
    let ready = match wanted::finish(given, &wanted.to)? {
        _ if deletes => Content::default(),
        Ok(content) => content,
        Err(stop) if stop.why == Why::Unfit => return Err(reject(Refusal::Invalid, stop.sentence)),
        Err(stop) => return Ok(weighing.stopped(whole(), stop)),
    };
    let Some(current) = current else {
        return match &change.base {
            Base::Version(_) | Base::Hash(_) | Base::Data(_) => {
                Err(reject(Refusal::Gone, "The record was deleted and purged; create it under a new id."))
            }
            _ if given.purged => Err(reject(Refusal::Gone, "A record with this id was deleted and purged; create it under a new id.")),
            _ => Ok(Decision::Apply(weighing.write(ready))),
        };
    };
    let same = if deletes { current.deleted } else { !current.deleted && *wanted.to == current.content };
    if rules.append_only {
        return if same && !deletes {
            Ok(Decision::Noop(weighing.client()))
        } else {
            Err(reject(Refusal::Immutable, "Records of this table are never changed or deleted."))
        };
    }
    if deletes && measure.gap {
        return Ok(weighing.open(whole(), Why::Gap, Suggestion::server(Because::UnknownBase)));
    }
    if measure.late && !(deletes && same) {
        return Ok(weighing.lost(current, Why::Late));
    }
    // Equal content is not the same deed where both sides moved a counter to it.
    let moved = !deletes && merge::moves_delta(rules, wanted.base.as_deref(), &wanted.to, &current.content, wanted.patch);
    let known = wanted.base.is_some();
    if same && !(moved && (measure.others || !known)) {
        return Ok(Decision::Noop(weighing.client()));
    }
    if rules.stale == Some(Stale::ServerWins) && !deletes && !known && given.edited_at < current.edited_at {
        return Ok(weighing.lost(current, Why::Stale));
    }
    if moved && (measure.gap || !known) {
        return Ok(weighing.open(whole(), Why::Gap, Suggestion::server(Because::UnknownBase)));
    }
    if deletes || current.deleted { weighing.life(current, ready) } else { weighing.fields(current, ready) }
}

/// The record belongs to others now. Who saw it before is heard, anybody else learns nothing.
fn out_of_view(given: &Given<'_>) -> Early {
    let Given { rules, actor, change, lineage, .. } = *given;
    let saw = |version: &&Version| actor.in_scope(rules.scope, &version.scope);
    let Some(newest) = lineage.above.iter().chain(&lineage.base).find(saw) else {
        // What would be refused of a free id is refused of a hidden one in the same words.
        let free = Given { current: None, lineage: &Lineage::default(), ..*given };
        return match weigh(&free) {
            Err(early) if !matches!(*early, Decision::Reject(Refusal::Gone, _)) => early,
            _ => reject(Refusal::Forbidden, OUT_OF_VIEW),
        };
    };
    let base = measure::measure(given).base;
    let client = match &change.edit {
        Edit::Whole(content) => Some(content.clone()),
        Edit::Patch(patch) => merge::patch(base.unwrap_or(&newest.content), patch).ok(),
        Edit::Delete => None,
    };
    Box::new(Decision::Conflict(Conflict {
        winner: Winner::None,
        fields: whole(),
        winners: vec![Winner::None],
        why: Why::LeftView,
        detail: None,
        rule: rules.rule,
        write: None,
        suggestion: Suggestion::server(Because::LeftView),
        base: base.cloned(),
        client,
    }))
}

fn whole() -> Vec<String> {
    vec![path::WHOLE.into()]
}

/// One change over a record that the actor may see and write.
struct Weighing<'a> {
    given: &'a Given<'a>,
    wanted: &'a Wanted<'a>,
    measure: &'a Measure<'a>,
}

impl Weighing<'_> {
    fn deletes(&self) -> bool {
        self.given.change.edit == Edit::Delete
    }

    fn client(&self) -> Option<Content> {
        (!self.deletes()).then(|| self.wanted.to.clone().into_owned())
    }

    fn write(&self, content: Content) -> Write {
        let Wanted { to, scope, filled, .. } = self.wanted;
        let deleted = self.deletes();
        let as_asked = deleted || content == **to;
        let scope = if as_asked { None } else { wanted::scope_of(self.given.rules, &content) }.unwrap_or_else(|| scope.clone());
        let sent = (!as_asked).then(|| to.clone().into_owned());
        Write { content, scope, deleted, filled: *filled, sent }
    }

    fn conflict(&self, fields: Vec<String>, winner: Winner, why: Why, suggestion: Suggestion) -> Conflict {
        Conflict {
            winner,
            winners: vec![winner; fields.len()],
            fields,
            why,
            detail: None,
            rule: self.given.rules.rule,
            write: None,
            suggestion,
            base: self.measure.base.cloned(),
            client: self.client(),
        }
    }

    /// A conflict that waits.
    fn open(&self, fields: Vec<String>, why: Why, suggestion: Suggestion) -> Decision {
        Decision::Conflict(self.conflict(fields, Winner::None, why, suggestion))
    }

    /// A conflict that waits because a script failed or its result breaks a constraint.
    fn stopped(&self, fields: Vec<String>, stop: wanted::Stop) -> Decision {
        let because = if stop.why == Why::Unfit { Because::Unfit } else { Because::Script };
        let conflict = self.conflict(fields, Winner::None, stop.why, Suggestion::server(because));
        Decision::Conflict(Conflict { detail: Some(stop.sentence), ..conflict })
    }

    /// The change is too late, so no rule is asked.
    fn lost(&self, current: &Version, why: Why) -> Decision {
        let mut fields: Vec<String> = self.wanted.to.differences(&current.content).iter().map(|name| path::step(name)).collect();
        if fields.is_empty() || self.deletes() || current.deleted {
            fields = whole();
        }
        Decision::Conflict(self.conflict(fields, Winner::Server, why, Suggestion::server(Because::Decided)))
    }

    /// A delete, or an edit of what was deleted.
    fn life(&self, current: &Version, ready: Content) -> Result<Decision, Early> {
        let Given { rules, lineage, .. } = *self.given;
        let began_here = lineage.base.as_ref().is_some_and(|base| base.seq == current.seq);
        if (!self.measure.others || (current.deleted && began_here)) && !self.measure.unknown {
            return Ok(Decision::Apply(self.write(if self.deletes() { current.content.clone() } else { ready })));
        }
        let they = judge::side(current);
        let mut conflict = self.conflict(whole(), Winner::None, Why::Rule, Suggestion::server(Because::Decided));
        let word = match rules.rule {
            Rule::Script => self.scripted(current, &conflict.fields, None, they)?,
            rule => Ok(judge::Word::Side(judge::winner(rule, self.side(), they))),
        };
        let content = match word {
            Ok(judge::Word::Side(winner)) => {
                conflict.winner = winner;
                // A tombstone keeps the last live content; an edit that beats a delete is laid over that.
                let revived = || self.revived(current);
                (winner == Winner::Client).then(|| if self.deletes() { current.content.clone() } else { revived() })
            }
            Ok(judge::Word::Record(content)) => {
                conflict.winner = Winner::Merged;
                Some(content)
            }
            Err(stop) => return Ok(self.stopped(whole(), stop)),
        };
        conflict.winners = vec![conflict.winner];
        if let Some(content) = content {
            let alive = !self.deletes() || conflict.winner == Winner::Merged;
            let content = match self.settled(current, content, &ready)? {
                _ if !alive => current.content.clone(),
                Ok(content) => content,
                Err(stop) => return Ok(self.stopped(whole(), stop)),
            };
            if !alive || current.deleted || content != current.content {
                conflict.write = Some(Write { deleted: !alive, ..self.write(content) });
            }
        }
        conflict.suggestion = self.suggestion(conflict.winner, current, they);
        Ok(Decision::Conflict(conflict))
    }

    /// The edit laid over the last live content. The record stays where it was, unless the edit is what moves it.
    fn revived(&self, current: &Version) -> Content {
        let (rules, to, base) = (self.given.rules, &self.wanted.to, self.wanted.base.as_deref());
        let laid = match base {
            None => to.clone().into_owned(),
            Some(base) => {
                let merge = merge::three_way(rules, Some(base), to, &current.content, true);
                merge::take(rules, &merge.result, &merge.conflicts, to)
            }
        };
        let scope = rules.scope_field().filter(|field| base.is_none_or(|base| base.field(field) == to.field(field)));
        let kept = scope.and_then(|field| Some((field, current.content.value(field)?)));
        kept.map_or_else(|| laid.clone(), |(field, value)| laid.with(field, value))
    }

    /// An edit of a live record, field by field.
    fn fields(&self, current: &Version, ready: Content) -> Result<Decision, Early> {
        let (Given { rules, actor, .. }, to) = (*self.given, &self.wanted.to);
        let merge = merge::three_way(rules, self.wanted.base.as_deref(), to, &current.content, self.measure.others);
        let paths = merge.conflicts;
        if paths.is_empty() {
            let plain = merge.result == **to;
            return Ok(match self.settled(current, merge.result, &ready)? {
                Ok(content) if content == current.content => Decision::Noop(self.client()),
                Ok(content) if plain => Decision::Apply(self.write(content)),
                Ok(content) => Decision::Merge(self.write(content)),
                Err(stop) => self.stopped(whole(), stop),
            });
        }
        if rules.scope_field().is_some_and(|field| paths.contains(&path::step(field))) && !actor.role.sees_all() {
            return Err(reject(Refusal::Forbidden, OUT_OF_VIEW));
        }
        let scripted = match paths.iter().any(|path| judge::rule_of(rules, path) == Rule::Script) {
            true => Some(match self.scripted(current, &paths, Some(&merge.result), judge::rival(self.given, current, Rule::Script))? {
                Ok(word) => word,
                Err(stop) => return Ok(self.stopped(paths, stop)),
            }),
            false => None,
        };
        let composed = match &scripted {
            Some(judge::Word::Record(content)) => Some(content),
            _ => None,
        };
        let judged = paths.iter().map(|path| {
            let rule = judge::rule_of(rules, path);
            match (rule, &scripted) {
                (Rule::Script, Some(judge::Word::Side(winner))) => *winner,
                (Rule::Script, Some(judge::Word::Record(content))) => judge::whose(rules, path, content, to, &current.content),
                _ => judge::winner(rule, self.side(), self.rival(current, path)),
            }
        });
        let winners: Vec<Winner> = judged.collect();
        let won = |wanted: fn(Winner) -> bool| paths.iter().zip(&winners).filter(move |(_, winner)| wanted(**winner)).map(|(path, _)| path);
        let result = merge::take(rules, composed.unwrap_or(&merge.result), won(|winner| winner == Winner::Client), to);
        // What the script has no say in, it may have changed all the same.
        let others =
            won(|winner| winner != Winner::Client).filter(|path| composed.is_some() && judge::rule_of(rules, path) != Rule::Script);
        let result = merge::take(rules, &result, others, &current.content);
        let content = match self.settled(current, result, &ready)? {
            Ok(content) => content,
            Err(stop) => return Ok(self.stopped(paths, stop)),
        };
        let winner = judge::overall(&winners);
        let waiting = paths.iter().zip(&winners).filter(|(_, winner)| **winner == Winner::None).map(|(path, _)| path);
        let strongest = waiting.map(|path| self.rival(current, path)).max_by_key(|side| (side.role.rank(), side.edited_at));
        let suggestion = self.suggestion(winner, current, strongest.unwrap_or_else(|| judge::side(current)));
        let rule = judge::asked(rules, &paths);
        let write = (content != current.content).then(|| self.write(content));
        Ok(Decision::Conflict(Conflict { winners, write, rule, ..self.conflict(paths, winner, Why::Rule, suggestion) }))
    }

    /// A result as it may be written over the record.
    fn settled(&self, current: &Version, result: Content, ready: &Content) -> Result<Result<Content, wanted::Stop>, Early> {
        if result == current.content {
            return Ok(Ok(result));
        }
        if result == *self.wanted.to {
            return Ok(Ok(ready.clone()));
        }
        wanted::finish(self.given, &result)
    }

    /// What the table's script says. `merged`: both sides in one, where both are alive.
    fn scripted(
        &self,
        current: &Version,
        fields: &[String],
        merged: Option<&Content>,
        they: Side,
    ) -> Result<Result<judge::Word, wanted::Stop>, Early> {
        judge::script(
            self.given,
            Case {
                table: self.given.table.to_owned(),
                id: self.given.change.id.as_str().to_owned(),
                fields: fields.to_vec(),
                base: self.measure.base.cloned(),
                server: (!current.deleted).then(|| current.content.clone()),
                client: self.client(),
                merged: merged.cloned(),
                they,
                we: self.side(),
            },
        )
    }

    fn side(&self) -> Side {
        Side { role: self.given.actor.role, edited_at: self.given.edited_at }
    }

    /// Who stands on the other side of a path: field by field whoever changed it last, else the strongest of all.
    fn rival(&self, current: &Version, path: &str) -> Side {
        if self.given.rules.granularity == Granularity::Record || self.wanted.base.is_none() {
            return judge::rival(self.given, current, judge::rule_of(self.given.rules, path));
        }
        judge::author(self.given, current, path)
    }

    fn suggestion(&self, winner: Winner, current: &Version, they: Side) -> Suggestion {
        let resolution = match winner {
            Winner::None => return judge::suggestion(self.given.rules, self.wanted, current, self.deletes(), self.side(), they),
            Winner::Client => Resolution::UseClient,
            Winner::Server => Resolution::UseServer,
            Winner::Merged => Resolution::UseMerged,
        };
        Suggestion { resolution, because: Because::Decided, merged: None }
    }
}
