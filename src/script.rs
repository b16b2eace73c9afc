//! A table's script: compiled once, then asked what it derives from a record and who wins a conflict.
//!
//! A script is a pure function in the language Rhai. It sees what it is given and nothing else, and its time, memory and stack
//! are bounded: run it on a thread with [`limits::RULES_STACK_BYTES`].
//!
//! `derive(record)` returns the record with what it derives. `resolve(base, server, client, context)` returns a record, or
//! `"server"`, `"client"` or `"manual"`; a side that is deleted or unknown is `()`.

mod native;
mod value;

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use rhai::{AST, CallFnOptions, Dynamic, Engine, EvalAltResult, FuncArgs, Map, ParseError, Position, Scope};
use rustix::time::{ClockId, clock_gettime};

use crate::domain::ask::{Case, Side};
use crate::domain::decide::Winner;
use crate::domain::limits;
use crate::domain::record::Content;

/// One engine for all scripts: it holds no state of theirs.
static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut engine = native::engine();
    engine.on_progress(|_| LIMIT.get().and_then(is_over).map(|()| Dynamic::UNIT));
    engine
});

/// A compiled script.
pub struct Script {
    ast: AST,
    resolves: bool,
    derives: bool,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script").field("resolves", &self.resolves).field("derives", &self.derives).finish_non_exhaustive()
    }
}

/// What `resolve` said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// A record that holds what should hold.
    Record(Content),
    /// One side, or nobody (`manual`).
    Side(Winner),
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The time is up, of this call or of the push.
    Budget,
    /// The script is wrong, and how.
    Failed(String),
}

impl Script {
    /// Compiles a script. The error says what is wrong with it, and where.
    pub fn compile(source: &str) -> Result<Script, String> {
        if source.len() > limits::SCRIPT_BYTES {
            return Err(format!("a script has at most {} bytes, and this one {}", limits::SCRIPT_BYTES, source.len()));
        }
        let compile = || ENGINE.compile(source);
        let mut ast = catch_unwind(compile).map_err(|_| "the script cannot be read".to_owned())?.map_err(|error| describe(&error))?;
        // Only the functions are ever called.
        ast.clear_statements();
        let has = |name: &str, parameters: &[&str]| {
            let counts: Vec<usize> = ast.iter_functions().filter(|one| one.name == name).map(|one| one.params.len()).collect();
            if counts.iter().any(|count| *count != parameters.len()) {
                return Err(format!("the function {name:?} is written {name}({})", parameters.join(", ")));
            }
            Ok(!counts.is_empty())
        };
        let resolves = has("resolve", &["base", "server", "client", "context"])?;
        let derives = has("derive", &["record"])?;
        if !resolves && !derives {
            return Err("a script needs a function resolve(base, server, client, context) or a function derive(record)".into());
        }
        Ok(Script { ast, resolves, derives })
    }

    /// Whether it decides conflicts.
    pub fn resolves(&self) -> bool {
        self.resolves
    }

    /// Whether it derives fields.
    pub fn derives(&self) -> bool {
        self.derives
    }

    /// The record as `derive` returns it.
    pub fn derive(&self, record: &Content, budget: &mut Budget) -> Result<Content, Failure> {
        let record = value::read(record).map_err(Failure::Failed)?;
        let derived = self.call("derive", (record,), budget)?;
        if !derived.is_map() {
            return Err(Failure::Failed(format!("derive returned {}, and not a record", kind(&derived))));
        }
        value::write(&derived).map_err(|reason| Failure::Failed(format!("derive returned what is no record: {reason}")))
    }

    /// Who wins, as `resolve` says.
    pub fn resolve(&self, case: &Case, budget: &mut Budget) -> Result<Resolution, Failure> {
        let record = |side: &Option<Content>| side.as_ref().map_or(Ok(Dynamic::UNIT), value::read).map_err(Failure::Failed);
        let context = context(case, record(&case.merged)?);
        let sides = (record(&case.base)?, record(&case.server)?, record(&case.client)?, context);
        let answer = self.call("resolve", sides, budget)?;
        if answer.is_map() {
            let content = value::write(&answer);
            return content
                .map(Resolution::Record)
                .map_err(|reason| Failure::Failed(format!("resolve returned what is no record: {reason}")));
        }
        let word = answer.as_immutable_string_ref().map(|word| word.to_string()).unwrap_or_default();
        match word.as_str() {
            "server" => Ok(Resolution::Side(Winner::Server)),
            "client" => Ok(Resolution::Side(Winner::Client)),
            "manual" => Ok(Resolution::Side(Winner::None)),
            _ => {
                let returned = if answer.is_string() { format!("{:?}", cut(&word, 40)) } else { kind(&answer).into() };
                let expected = "a record, \"server\", \"client\" or \"manual\"";
                Err(Failure::Failed(format!("resolve returned {returned}, and not {expected}")))
            }
        }
    }

    fn call(&self, name: &str, arguments: impl FuncArgs, budget: &mut Budget) -> Result<Dynamic, Failure> {
        let time = budget.left.min(budget.call);
        if time.is_zero() {
            return Err(Failure::Budget);
        }
        let (began, start) = (spent(), Instant::now());
        LIMIT.set(Some(Limit { look: start + time, end: began + time }));
        let options = CallFnOptions::new().eval_ast(false);
        let call = || ENGINE.call_fn_with_options::<Dynamic>(options, &mut Scope::new(), &self.ast, name, arguments);
        let result = catch_unwind(AssertUnwindSafe(call));
        LIMIT.set(None);
        // Where the processor's clock is coarse it may leap during a short call.
        budget.left = budget.left.saturating_sub(spent().saturating_sub(began).min(start.elapsed()));
        match result {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(failure(*error)),
            Err(_) => Err(Failure::Failed("the script made the engine fail".into())),
        }
    }
}

/// The time that scripts may still take: time of the processor, so that a busy machine fails no honest script.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Duration,
    call: Duration,
}

impl Budget {
    /// What one push may take.
    pub fn of_push() -> Budget {
        Budget::new(limits::SCRIPT_PUSH, limits::SCRIPT_CALL)
    }

    /// A time for all calls, and one for each.
    pub fn new(all: Duration, call: Duration) -> Budget {
        Budget { left: all, call }
    }
}

/// When a running call ends.
#[derive(Clone, Copy)]
struct Limit {
    /// Before this moment the thread cannot have used up its time.
    look: Instant,
    /// The thread's time of the processor at which it ends.
    end: Duration,
}

thread_local! {
    /// The call that runs on this thread.
    static LIMIT: Cell<Option<Limit>> = const { Cell::new(None) };
}

/// Asked at every operation: the clock on the wall is cheap to read, the one of the processor is not.
fn is_over(limit: Limit) -> Option<()> {
    let now = Instant::now();
    if now < limit.look {
        return None;
    }
    let left = limit.end.saturating_sub(spent());
    LIMIT.set(Some(Limit { look: now + left, ..limit }));
    left.is_zero().then_some(())
}

/// Time of the processor that this thread has used.
fn spent() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn context(case: &Case, merged: Dynamic) -> Dynamic {
    let side = |side: Side| {
        let entries = [("role", Dynamic::from(side.role.word())), ("edited_at", side.edited_at.div_euclid(1_000).into())];
        Dynamic::from(entries.into_iter().map(|(name, value)| (name.into(), value)).collect::<Map>())
    };
    let fields: rhai::Array = case.fields.iter().map(|field| field.as_str().into()).collect();
    let entries = [
        ("table", case.table.as_str().into()),
        ("id", case.id.as_str().into()),
        ("fields", fields.into()),
        ("merged", merged),
        ("server", side(case.they)),
        ("client", side(case.we)),
    ];
    entries.into_iter().map(|(name, value)| (name.into(), value)).collect::<Map>().into()
}

/// What a value is, for a sentence.
fn kind(value: &Dynamic) -> &'static str {
    match value {
        _ if value.is_unit() => "nothing",
        _ if value.is_map() => "an object map",
        _ if value.is_array() => "a list",
        _ if value.is_string() || value.is_char() => "a text",
        _ if value.is_bool() => "true or false",
        _ if value.is_int() || value.is_float() => "a number",
        _ => "what is no value of JSON",
    }
}

fn describe(error: &ParseError) -> String {
    sentence(&error.err_type().to_string(), error.position())
}

fn sentence(text: &str, position: Position) -> String {
    let text = cut(text, limits::REASON_CHARS);
    match (position.line(), position.position()) {
        (Some(line), Some(column)) => format!("line {line}, column {column}: {text}"),
        (Some(line), None) => format!("line {line}: {text}"),
        _ => text,
    }
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn failure(mut error: EvalAltResult) -> Failure {
    while let EvalAltResult::ErrorInFunctionCall(_, _, inner, _) | EvalAltResult::ErrorInModule(_, inner, _) = error {
        error = *inner;
    }
    let position = error.take_position();
    // Values are never written as a whole: they may be large and deep.
    let text = match error {
        EvalAltResult::ErrorTerminated(..) | EvalAltResult::ErrorTooManyOperations(_) => return Failure::Budget,
        EvalAltResult::ErrorRuntime(thrown, _) => match thrown.as_immutable_string_ref() {
            Ok(text) => text.to_string(),
            Err(_) => format!("the script threw {}", kind(&thrown)),
        },
        EvalAltResult::ErrorIndexNotFound(..) => "no such index".into(),
        EvalAltResult::LoopBreak(..) | EvalAltResult::Return(..) | EvalAltResult::Exit(..) => "the script ended early".into(),
        error => error.to_string(),
    };
    Failure::Failed(sentence(&text, position))
}

#[cfg(test)]
mod tests;
