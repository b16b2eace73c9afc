//! What a table's records must look like: a JSON Schema (2020-12 or draft-07), compiled once, held against records.
//!
//! The time of a check is bounded, whatever the schema and the record. The schema is measured when it is compiled: references
//! stay within it, and what one value is held against, all references followed, is counted and bounded. While a record is
//! checked, every look at a part of it is paid from a supply that grows with the record. Its stack is that of scripts,
//! [`limits::RULES_STACK_BYTES`].

mod measure;
mod metered;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use self::metered::{FUEL, Metered, Spent};
use super::record::Content;
use super::{limits, path};

/// A compiled schema.
pub struct Schema {
    validator: Validator<Metered>,
    /// What handing over one value costs, for the parts of the schema that never look at it.
    step: u64,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema").field("step", &self.step).finish_non_exhaustive()
    }
}

impl Schema {
    /// Compiles a schema. The error says what is wrong with it, or which bound it breaks.
    pub fn compile(schema: &Value) -> Result<Schema, String> {
        let widest = measure::measure(schema)?;
        let patterns = PatternOptions::regex().size_limit(limits::SCHEMA_PATTERN_BYTES).dfa_size_limit(limits::SCHEMA_PATTERN_BYTES);
        let options = jsonschema::options_for::<Metered>().offline().should_validate_formats(true).with_pattern_options(patterns);
        let step = 4 + widest as u64 / 8;
        // Compiling may look at values, too.
        FUEL.set((u64::MAX, step));
        let built = catch_unwind(AssertUnwindSafe(|| options.build(schema)));
        let built = built.map_err(|_| "the schema cannot be compiled".to_owned())?;
        let validator = built.map_err(|error| {
            let text = cut(&error.to_string(), limits::REASON_CHARS);
            format!("the schema is wrong at {}: {text}", place(error.instance_path().as_str().trim_start_matches('/')))
        })?;
        Ok(Schema { validator, step })
    }

    /// Holds a record against the schema. The error names at most three places, each with its reason.
    pub fn check(&self, record: &Content) -> Result<(), String> {
        let value: Value = serde_json::from_str(record.text()).map_err(|_| "the record is no JSON".to_owned())?;
        let fuel = limits::SCHEMA_FUEL + limits::SCHEMA_FUEL_BYTE * record.text().len() as u64;
        match self.metered(fuel, || self.validator.is_valid(metered::Node(&value))) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(Spent) => return Err("the record takes too long to be held against its schema".into()),
        }
        // All errors at once may be a great many; then the first alone.
        let few = self.metered(fuel, || {
            let errors = self.validator.iter_errors(metered::Node(&value));
            let reasons: Vec<String> = errors.take(3).map(|error| reason(&error, &value)).collect();
            reasons.join("; ")
        });
        let one = || self.metered(fuel, || self.validator.validate(metered::Node(&value)).err().map(|error| reason(&error, &value)));
        let text = few.ok().or_else(|| one().ok().flatten()).filter(|text| !text.is_empty());
        Err(text.unwrap_or_else(|| "the record does not fit its schema, and why takes too long to find out".into()))
    }

    /// Runs until the fuel is spent. What runs is pure, so it can be left in the middle.
    fn metered<T>(&self, fuel: u64, run: impl FnOnce() -> T) -> Result<T, Spent> {
        FUEL.set((fuel, self.step));
        catch_unwind(AssertUnwindSafe(run)).map_err(|_| Spent)
    }
}

/// One error: path and reason, for example `age: -1 is less than the minimum of 0`.
fn reason(error: &ValidationError<'_>, record: &Value) -> String {
    let pointer = error.instance_path().as_str();
    let text = match record.pointer(pointer) {
        Some(Value::Object(_)) => error.masked_with("the object").to_string(),
        Some(Value::Array(_)) => error.masked_with("the list").to_string(),
        Some(Value::String(text)) if text.len() > metered::SHOWN => error.masked_with("the text").to_string(),
        _ => error.to_string(),
    };
    format!("{}: {}", place(pointer.trim_start_matches('/')), cut(&text, limits::REASON_CHARS / 2))
}

/// A place as a path of the protocol, from a JSON pointer without its first slash.
fn place(pointer: &str) -> String {
    if pointer.is_empty() {
        return "the record".into();
    }
    let steps = pointer.split('/').map(|step| step.replace("~1", "/").replace("~0", "~"));
    cut(&steps.fold(String::new(), |path, step| path::join(&path, &step)), limits::REASON_CHARS / 2)
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
