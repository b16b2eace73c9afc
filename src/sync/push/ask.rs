//! Running what decisions ask for: scripts and schemas, off the writer and within a budget.

use std::sync::Arc;
use std::time::Duration;

use crate::domain::ask::{Question, Replies, Reply};
use crate::domain::change::Edit;
use crate::domain::limits;
use crate::domain::record::quote;
use crate::script::{self, Failure, Resolution};
use crate::store;
use crate::store::accounts::Device;
use crate::sync::office::Table;
use crate::sync::{App, Result};

use super::{Round, Verdict};

/// Decisions that a push which stands or falls as a whole may cost. Each of its rounds begins anew, and each change of one
/// record that a script has to see may need a round of its own.
const DECISIONS: usize = 320_000;

/// Time for a change to be finished, where a push has more changes than fit into the time of its scripts.
const FINISHING: Duration = Duration::from_millis(1);

/// What is left of a push's time for scripts.
#[derive(Debug)]
pub(in crate::sync) struct Budget {
    /// For `derive`, which runs on every change.
    finishing: script::Budget,
    /// For `resolve`, which runs on conflicts.
    resolving: script::Budget,
    /// Rounds that are left, where all changes stand or fall together.
    rounds: Option<usize>,
}

impl Budget {
    /// The budget of a push with so many changes. `whole`: all of them stand or fall together.
    pub(in crate::sync) fn of(changes: usize, whole: bool) -> Budget {
        let total = limits::SCRIPT_PUSH.max(FINISHING * u32::try_from(changes).unwrap_or(u32::MAX));
        Budget {
            finishing: script::Budget::new(total, limits::SCRIPT_CALL),
            resolving: script::Budget::of_push(),
            rounds: whole.then_some(DECISIONS / changes.max(1)),
        }
    }

    /// Asks what can be foretold before the writer is: whole records are mostly written as they came.
    pub(super) async fn ahead(&mut self, app: &App, device: &Device, round: &mut Round) -> Result<()> {
        let ready = round.items.iter().filter_map(|item| item.ready.as_ref().ok()).filter(|ready| ready.table.finishes());
        let questions: Vec<_> = ready
            .filter_map(|ready| {
                let Edit::Whole(content) = &ready.change.edit else { return None };
                let rules = &ready.table.rules;
                let own = rules.scope_field().filter(|field| content.value(field).is_none()).zip(device.actor.own_scope(rules.scope));
                let content = own.map_or_else(|| content.clone(), |(field, own)| content.with(field, &quote(own)));
                Some((ready.table.clone(), Question::Finish(content)))
            })
            .collect();
        self.ask(app, questions, &mut round.replies).await
    }

    /// Asks what a round left open.
    pub(super) async fn answer(&mut self, app: &App, round: &mut Round) -> Result<()> {
        self.rounds = self.rounds.map(|left| left.saturating_sub(1));
        round.patient = self.rounds != Some(0);
        let undecided = round.items.iter().zip(&mut round.verdicts).filter_map(|(item, verdict)| {
            let table = item.ready.as_ref().ok()?.table.clone();
            match std::mem::replace(verdict, Verdict::Waits) {
                Verdict::Asks(question) => Some((table, question)),
                decided => {
                    *verdict = decided;
                    None
                }
            }
        });
        let questions = undecided.collect();
        self.ask(app, questions, &mut round.replies).await
    }

    /// Puts questions to scripts and schemas, on a thread where nobody else waits.
    pub(in crate::sync) async fn ask(&mut self, app: &App, questions: Vec<(Arc<Table>, Question)>, replies: &mut Replies) -> Result<()> {
        if questions.is_empty() {
            return Ok(());
        }
        let _turn = app.scripts.acquire().await.map_err(|_| store::Error::Closed)?;
        let (mut finishing, mut resolving) = (self.finishing.clone(), self.resolving.clone());
        let run = move || {
            let answered: Vec<_> = questions
                .iter()
                .map(|(table, question)| {
                    let reply = match question {
                        Question::Finish(_) => reply(table, question, &mut finishing),
                        Question::Resolve(_) => reply(table, question, &mut resolving),
                    };
                    (question.key(table.name.as_str()), reply)
                })
                .collect();
            (answered, finishing, resolving)
        };
        // A thread of its own, for its stack.
        let (sender, answer) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("scripts".into()).stack_size(limits::RULES_STACK_BYTES);
        thread.spawn(move || sender.send(run())).map_err(|_| store::Error::Panicked)?;
        let (answered, finishing, resolving) = answer.await.map_err(|_| store::Error::Panicked)?;
        (self.finishing, self.resolving) = (finishing, resolving);
        replies.extend(answered);
        Ok(())
    }
}

fn reply(table: &Table, question: &Question, budget: &mut script::Budget) -> Reply {
    let failed = |failure| match failure {
        Failure::Budget => Reply::Budget,
        Failure::Failed(sentence) => Reply::Failed(sentence),
    };
    match question {
        Question::Finish(content) => {
            let derived = match table.script.as_ref().filter(|script| script.derives()) {
                Some(script) => script.derive(content, budget),
                None => Ok(content.clone()),
            };
            match (derived, &table.schema) {
                (Err(failure), _) => failed(failure),
                (Ok(content), Some(schema)) => match schema.check(&content) {
                    Ok(()) => Reply::Record(content),
                    Err(sentence) => Reply::Unfit(sentence),
                },
                (Ok(content), None) => Reply::Record(content),
            }
        }
        Question::Resolve(case) => match table.script.as_ref().map(|script| script.resolve(case, budget)) {
            Some(Ok(Resolution::Record(content))) => Reply::Record(content),
            Some(Ok(Resolution::Side(winner))) => Reply::Side(winner),
            Some(Err(failure)) => failed(failure),
            None => Reply::Failed("The table has no script.".into()),
        },
    }
}
