//! What scripts can call: the packages of the language, and stricter versions of the functions whose time, memory or stack
//! the engine does not bound. It counts operations and looks at sizes between them; here it is about what happens within one.
//!
//! Not there: anything that reads or writes outside, clocks, `eval`, printing, and binary data.

use std::fmt::Write;

use rhai::packages::{
    ArithmeticPackage, BasicArrayPackage, BasicIteratorPackage, BasicMapPackage, BasicMathPackage, BasicStringPackage, LogicPackage,
    MoreStringPackage, Package,
};
use rhai::{Array, Dynamic, Engine, EvalAltResult, INT, ImmutableString, Map, Position};

use crate::domain::limits;

type Result<T> = std::result::Result<T, Box<EvalAltResult>>;

/// The engine with everything that it may do, and its bounds.
pub(super) fn engine() -> Engine {
    let mut engine = Engine::new_raw();
    ArithmeticPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BasicMathPackage::new().register_into_engine(&mut engine);
    BasicIteratorPackage::new().register_into_engine(&mut engine);
    BasicStringPackage::new().register_into_engine(&mut engine);
    MoreStringPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);
    // Found before those of the packages.
    stricter(&mut engine);
    for symbol in ["eval", "print", "debug"] {
        engine.disable_symbol(symbol);
    }
    engine
        .set_max_operations(limits::SCRIPT_OPERATIONS)
        .set_max_call_levels(limits::SCRIPT_CALLS_DEEP)
        .set_max_expr_depths(limits::SCRIPT_NESTING, limits::SCRIPT_NESTING)
        .set_max_variables(limits::SCRIPT_VARIABLES)
        .set_max_functions(limits::SCRIPT_FUNCTIONS)
        .set_max_string_size(limits::SCRIPT_TEXT_BYTES)
        .set_max_array_size(limits::SCRIPT_ITEMS)
        .set_max_map_size(limits::SCRIPT_ITEMS);
    engine
}

fn stricter(engine: &mut Engine) {
    // The result of replacing is as long as both texts multiplied.
    engine.register_fn("replace", |text: &mut ImmutableString, old: &str, new: &str| replace(text, old, new));
    engine.register_fn("replace", |text: &mut ImmutableString, old: &str, new: char| replace(text, old, new.encode_utf8(&mut [0; 4])));
    engine.register_fn("replace", |text: &mut ImmutableString, old: char, new: &str| replace(text, old.encode_utf8(&mut [0; 4]), new));
    engine.register_fn("replace", |text: &mut ImmutableString, old: char, new: char| {
        replace(text, old.encode_utf8(&mut [0; 4]), new.encode_utf8(&mut [0; 4]))
    });
    // Padding with nothing never ends.
    engine.register_fn("pad", |text: &mut ImmutableString, length: INT, with: &str| pad_text(text, length, with));
    engine.register_fn("pad", |text: &mut ImmutableString, length: INT, with: char| pad_text(text, length, with.encode_utf8(&mut [0; 4])));
    engine.register_fn("pad", pad_list);
    // These descend into lists and objects, and a script can nest them deeper than a stack reaches.
    engine.register_fn("==", |a: &mut Array, b: Array| lists_equal(a, &b, 0));
    engine.register_fn("!=", |a: &mut Array, b: Array| lists_equal(a, &b, 0).map(|equal| !equal));
    engine.register_fn("==", |a: &mut Map, b: Map| objects_equal(a, &b, 0));
    engine.register_fn("!=", |a: &mut Map, b: Map| objects_equal(a, &b, 0).map(|equal| !equal));
    for name in ["to_string", "to_debug"] {
        engine.register_fn(name, |list: &mut Array| text_of(&|text| list_text(text, list, 0)));
        engine.register_fn(name, |object: &mut Map| text_of(&|text| object_text(text, object, 0)));
    }
    engine.register_fn("to_json", |object: &mut Map| text_of(&|text| object_text(text, object, 0)));
    // Integers beyond those of the language.
    engine.register_fn("==", |a: u64, b: u64| a == b);
    engine.register_fn("!=", |a: u64, b: u64| a != b);
}

fn too_large(what: &str) -> Box<EvalAltResult> {
    EvalAltResult::ErrorDataTooLarge(what.into(), Position::NONE).into()
}

fn replace(text: &mut ImmutableString, old: &str, new: &str) -> Result<()> {
    let count = text.matches(old).count();
    let length = (text.len() - count * old.len()).saturating_add(count.saturating_mul(new.len()));
    if length > limits::SCRIPT_TEXT_BYTES {
        return Err(too_large("Length of string"));
    }
    *text = text.replace(old, new).into();
    Ok(())
}

fn pad_text(text: &mut ImmutableString, length: INT, with: &str) -> Result<()> {
    let missing = usize::try_from(length).unwrap_or(0).saturating_sub(text.chars().count());
    if missing == 0 || with.is_empty() {
        return Ok(());
    }
    if missing > limits::SCRIPT_TEXT_BYTES {
        return Err(too_large("Length of string"));
    }
    let padding: String = with.chars().cycle().take(missing).collect();
    *text = format!("{text}{padding}").into();
    Ok(())
}

// The size of lists and objects would be multiplied, and the engine multiplies with overflow.
fn pad_list(list: &mut Array, length: INT, entry: Dynamic) -> Result<()> {
    if entry.is_array() || entry.is_map() || entry.is_fnptr() {
        return Err("a list is padded with texts, numbers, true, false or ()".into());
    }
    let length = usize::try_from(length).unwrap_or(0);
    if length > limits::SCRIPT_ITEMS {
        return Err(too_large("Size of array"));
    }
    if length > list.len() {
        list.resize(length, entry);
    }
    Ok(())
}

fn lists_equal(a: &[Dynamic], b: &[Dynamic], depth: usize) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for (a, b) in a.iter().zip(b) {
        if !equal(a, b, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn objects_equal(a: &Map, b: &Map, depth: usize) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    for ((a_name, a), (b_name, b)) in a.iter().zip(b) {
        if a_name != b_name || !equal(a, b, depth + 1)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Equal as JSON is: an integer and a float of the same value are.
fn equal(a: &Dynamic, b: &Dynamic, depth: usize) -> Result<bool> {
    if depth > limits::JSON_DEPTH {
        return Err("these values are nested too deep to be compared".into());
    }
    if let (Ok(a), Ok(b)) = (a.as_array_ref(), b.as_array_ref()) {
        return lists_equal(&a, &b, depth);
    }
    if let (Ok(a), Ok(b)) = (a.as_map_ref(), b.as_map_ref()) {
        return objects_equal(&a, &b, depth);
    }
    if let (Ok(a), Ok(b)) = (a.as_immutable_string_ref(), b.as_immutable_string_ref()) {
        return Ok(*a == *b);
    }
    if let (Ok(a), Ok(b)) = (a.as_int(), b.as_int()) {
        return Ok(a == b);
    }
    let number = |value: &Dynamic| value.as_float().or_else(|_| value.as_int().map(|number| number as f64));
    if let (Ok(a), Ok(b)) = (number(a), number(b)) {
        return Ok(a == b);
    }
    if let (Ok(a), Ok(b)) = (a.as_bool(), b.as_bool()) {
        return Ok(a == b);
    }
    if let (Ok(a), Ok(b)) = (a.as_char(), b.as_char()) {
        return Ok(a == b);
    }
    if a.is::<u64>() && b.is::<u64>() {
        return Ok(a.clone().try_cast::<u64>() == b.clone().try_cast::<u64>());
    }
    Ok(a.is_unit() && b.is_unit())
}

/// A list or an object as text, cut where it gets long. It never fails: on a failure the engine would write the value itself,
/// at any depth.
fn text_of(write: &dyn Fn(&mut Cut) -> std::fmt::Result) -> ImmutableString {
    let mut cut = Cut(String::new());
    if write(&mut cut).is_err() {
        cut.0.push('…');
    }
    cut.0.into()
}

/// A text that ends at a bound.
struct Cut(String);

impl Write for Cut {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        const ROOM: usize = limits::SCRIPT_TEXT_BYTES - 8;
        if self.0.len() + text.len() > ROOM {
            return Err(std::fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

fn list_text(out: &mut Cut, list: &[Dynamic], depth: usize) -> std::fmt::Result {
    out.write_char('[')?;
    for (place, entry) in list.iter().enumerate() {
        out.write_str(if place > 0 { "," } else { "" })?;
        text(out, entry, depth + 1)?;
    }
    out.write_char(']')
}

fn object_text(out: &mut Cut, object: &Map, depth: usize) -> std::fmt::Result {
    out.write_char('{')?;
    for (place, (name, value)) in object.iter().enumerate() {
        out.write_str(if place > 0 { "," } else { "" })?;
        out.write_str(&serde_json::Value::from(name.as_str()).to_string())?;
        out.write_char(':')?;
        text(out, value, depth + 1)?;
    }
    out.write_char('}')
}

fn text(out: &mut Cut, value: &Dynamic, depth: usize) -> std::fmt::Result {
    if depth > limits::JSON_DEPTH {
        return Err(std::fmt::Error);
    }
    if let Ok(list) = value.as_array_ref() {
        return list_text(out, &list, depth);
    }
    if let Ok(object) = value.as_map_ref() {
        return object_text(out, &object, depth);
    }
    if let Ok(text) = value.as_immutable_string_ref() {
        return out.write_str(&serde_json::Value::from(text.as_str()).to_string());
    }
    if let Ok(symbol) = value.as_char() {
        return out.write_str(&serde_json::Value::from(symbol.to_string()).to_string());
    }
    if value.is_unit() {
        return out.write_str("null");
    }
    match (value.as_int(), value.as_float(), value.as_bool(), value.clone().try_cast::<u64>()) {
        (Ok(number), ..) => write!(out, "{number}"),
        (_, Ok(number), ..) => write!(out, "{number}"),
        (_, _, Ok(truth), _) => write!(out, "{truth}"),
        (.., Some(number)) => write!(out, "{number}"),
        _ => out.write_str(value.type_name()),
    }
}
