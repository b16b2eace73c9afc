//! Records on their way into a script and back, without loss: 64-bit integers stay exact, whole floats become integers in the
//! canonical form, and what JSON cannot say is refused with its path.

use std::fmt;

use rhai::{Array, Dynamic, INT, Map};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use crate::domain::record::Content;
use crate::domain::{limits, path};

/// The fields that are the protocol's own and never a script's.
const PROTOCOL: [&str; 4] = ["id", "version", "updated_at", "deleted"];

/// A record as an object map.
pub(super) fn read(record: &Content) -> Result<Dynamic, String> {
    let mut size = Size::default();
    let mut reader = serde_json::Deserializer::from_str(record.text());
    Reader { size: &mut size }.deserialize(&mut reader).map_err(|error| {
        // The text is canonical, so only the size can be wrong; the place in the text says nothing.
        let text = error.to_string();
        text[..text.rfind(" at line ").unwrap_or(text.len())].to_owned()
    })
}

#[derive(Default)]
struct Size {
    text: usize,
    entries: usize,
    members: usize,
}

struct Reader<'a> {
    size: &'a mut Size,
}

fn over<E: serde::de::Error>(count: usize, limit: usize, what: &str) -> Result<(), E> {
    if count > limit { Err(E::custom(format!("the record is too large for a script, which takes {limit} {what}"))) } else { Ok(()) }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Dynamic;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Dynamic, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Dynamic;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Dynamic, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Dynamic, E> {
        Ok(Dynamic::UNIT)
    }
    fn visit_i64<E>(self, v: i64) -> Result<Dynamic, E> {
        Ok(v.into())
    }
    // Beyond the integers of the language it is a value that can be handed on and compared, and not counted with.
    fn visit_u64<E>(self, v: u64) -> Result<Dynamic, E> {
        Ok(INT::try_from(v).map_or_else(|_| Dynamic::from(v), Into::into))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Dynamic, E> {
        Ok(v.into())
    }
    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Dynamic, E> {
        self.size.text += v.len();
        over(self.size.text, limits::SCRIPT_TEXT_BYTES, "bytes of text")?;
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Dynamic, A::Error> {
        let mut list = Array::new();
        while let Some(entry) = seq.next_element_seed(Reader { size: self.size })? {
            self.size.entries += 1;
            over(self.size.entries, limits::SCRIPT_ITEMS, "entries in lists")?;
            list.push(entry);
        }
        Ok(list.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Dynamic, A::Error> {
        let mut object = Map::new();
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            self.size.members += 1;
            over(self.size.members, limits::SCRIPT_ITEMS, "fields")?;
            object.insert(name.as_ref().into(), map.next_value_seed(Reader { size: self.size })?);
        }
        Ok(object.into())
    }
}

/// An object map as a record.
pub(super) fn write(value: &Dynamic) -> Result<Content, String> {
    let object = value.as_map_ref().map_err(|_| "a record is an object map".to_owned())?;
    if let Some(name) = PROTOCOL.iter().find(|name| object.contains_key(**name)) {
        return Err(format!("{name:?} belongs to the protocol, and a script cannot set it"));
    }
    drop(object);
    let value = Writer { bytes: 0 }.value(value, 0).map_err(|unfit| {
        let path = unfit.steps.iter().rev().fold(String::new(), |path, step| path::join(&path, step));
        if path.is_empty() { unfit.reason } else { format!("{path}: {}", unfit.reason) }
    })?;
    let content = Content::from_value(&value)?;
    if content.text().len() > limits::RECORD_BYTES {
        return Err(too_large());
    }
    Ok(content)
}

fn too_large() -> String {
    format!("the record would be larger than {} bytes", limits::RECORD_BYTES)
}

/// What cannot be written, and where: the innermost step first.
struct Unfit {
    steps: Vec<String>,
    reason: String,
}

impl Unfit {
    fn within(mut self, step: impl Into<String>) -> Unfit {
        self.steps.push(step.into());
        self
    }
}

struct Writer {
    bytes: usize,
}

impl Writer {
    fn text(&mut self, text: &str) -> Result<String, Unfit> {
        self.bytes += text.len();
        if self.bytes > limits::RECORD_BYTES { Err(refuse(too_large())) } else { Ok(text.to_owned()) }
    }

    fn value(&mut self, value: &Dynamic, depth: usize) -> Result<Value, Unfit> {
        if let Ok(text) = value.as_immutable_string_ref() {
            return Ok(Value::String(self.text(&text)?));
        }
        if let Ok(number) = value.as_int() {
            return Ok(number.into());
        }
        if let Ok(number) = value.as_float() {
            let number = Number::from_f64(number).ok_or_else(|| refuse("neither infinity nor NaN is a number in JSON".into()))?;
            return Ok(Value::Number(number));
        }
        if let Ok(truth) = value.as_bool() {
            return Ok(truth.into());
        }
        if value.is_unit() {
            return Ok(Value::Null);
        }
        if let Ok(symbol) = value.as_char() {
            return Ok(Value::String(symbol.into()));
        }
        if depth >= limits::JSON_DEPTH {
            return Err(refuse(format!("nested deeper than {}", limits::JSON_DEPTH)));
        }
        if let Ok(list) = value.as_array_ref() {
            let entries = list.iter().enumerate();
            let entries = entries.map(|(place, entry)| self.value(entry, depth + 1).map_err(|unfit| unfit.within(place.to_string())));
            return Ok(Value::Array(entries.collect::<Result<_, _>>()?));
        }
        if let Ok(object) = value.as_map_ref() {
            let mut members = serde_json::Map::new();
            for (name, member) in object.iter() {
                let member = self.value(member, depth + 1).map_err(|unfit| unfit.within(name.as_str()))?;
                members.insert(self.text(name)?, member);
            }
            return Ok(Value::Object(members));
        }
        match value.clone().try_cast::<u64>() {
            Some(number) => Ok(number.into()),
            None => Err(refuse(format!("a value of the type {} cannot be written as JSON", value.type_name()))),
        }
    }
}

fn refuse(reason: String) -> Unfit {
    Unfit { steps: Vec::new(), reason }
}
