//! Whether a schema is one that can be checked in bounded time, before it is compiled.
//!
//! Schemas that apply to the same value are what matters: `allOf`, `anyOf`, `$ref` and their like. With references they unfold
//! into far more than was written, or into themselves. Schemas of parts are no concern here: a record has only so many parts.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::domain::limits;

/// Keywords whose schemas apply to the value itself: one schema, a list, an object of them.
const SAME: [&str; 4] = ["not", "if", "then", "else"];
const SAME_LIST: [&str; 3] = ["allOf", "anyOf", "oneOf"];
const SAME_MAP: [&str; 2] = ["dependentSchemas", "dependencies"];
/// Keywords whose schemas apply to parts of the value.
const PART: [&str; 8] = [
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "items",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
];
const PART_LIST: [&str; 2] = ["items", "prefixItems"];
const PART_MAP: [&str; 2] = ["patternProperties", "properties"];
/// Keywords whose schemas apply where they are referred to.
const STORE: [&str; 2] = ["$defs", "definitions"];
/// Keywords that make what a reference means depend on the way it was reached, or on other documents.
const REFUSED: [&str; 5] = ["$dynamicRef", "$dynamicAnchor", "$recursiveRef", "$recursiveAnchor", "$vocabulary"];
const DRAFTS: [&str; 2] = ["https://json-schema.org/draft/2020-12/schema", "http://json-schema.org/draft-07/schema"];

/// How many schemas at most apply to one value. The error says which bound the schema breaks.
pub(super) fn measure(schema: &Value) -> Result<usize, String> {
    let bytes = schema.to_string().len();
    if bytes > limits::SCHEMA_BYTES {
        return Err(format!("a schema has at most {} bytes, and this one {bytes}", limits::SCHEMA_BYTES));
    }
    let mut read = Read::default();
    if let Some(draft) = schema.get("$schema") {
        let known = draft.as_str().is_some_and(|draft| DRAFTS.contains(&draft.trim_end_matches('#')));
        if !known {
            return Err(format!("$schema: {draft} is neither of {}", DRAFTS.join(" and ")));
        }
    }
    read.schema(schema, String::new(), 0)?;
    read.widest()
}

/// The schemas within a schema.
#[derive(Default)]
struct Read<'a> {
    /// Their places, as JSON pointers.
    places: HashMap<String, usize>,
    /// Their names.
    anchors: HashMap<&'a str, usize>,
    /// Which schemas apply to the same value as each.
    same: Vec<Vec<usize>>,
    /// Which each refers to.
    references: Vec<Option<&'a str>>,
    patterns: usize,
}

impl<'a> Read<'a> {
    fn schema(&mut self, schema: &'a Value, place: String, depth: usize) -> Result<usize, String> {
        let own = self.same.len();
        if own >= limits::SCHEMA_NODES {
            return Err(format!("a schema consists of at most {} schemas", limits::SCHEMA_NODES));
        }
        if depth > limits::JSON_DEPTH {
            return Err(format!("a schema is nested at most {} deep", limits::JSON_DEPTH));
        }
        self.same.push(Vec::new());
        self.references.push(None);
        self.places.insert(place.clone(), own);
        let Value::Object(keywords) = schema else { return Ok(own) };
        self.plain(keywords, &place)?;
        if let Some(reference) = keywords.get("$ref") {
            self.references[own] = Some(reference.as_str().ok_or("a $ref is a text")?);
        }
        if let Some(anchor) = keywords.get("$anchor").and_then(Value::as_str) {
            self.anchors.insert(anchor, own);
        }
        for (keyword, value) in keywords {
            let name = keyword.as_str();
            let at = format!("{place}/{}", escape(name));
            let is_schema = matches!(value, Value::Object(_) | Value::Bool(_));
            if is_schema && (SAME.contains(&name) || PART.contains(&name)) {
                let inner = self.schema(value, at, depth + 1)?;
                if SAME.contains(&name) {
                    self.same[own].push(inner);
                }
            } else if let (true, Value::Array(list)) = (SAME_LIST.contains(&name) || PART_LIST.contains(&name), value) {
                for (number, value) in list.iter().enumerate() {
                    let inner = self.schema(value, format!("{at}/{number}"), depth + 1)?;
                    if SAME_LIST.contains(&name) {
                        self.same[own].push(inner);
                    }
                }
            } else if let (true, Value::Object(map)) = ([&SAME_MAP[..], &PART_MAP, &STORE].concat().contains(&name), value) {
                for (key, value) in map.iter().filter(|(_, value)| matches!(value, Value::Object(_) | Value::Bool(_))) {
                    let inner = self.schema(value, format!("{at}/{}", escape(key)), depth + 1)?;
                    if SAME_MAP.contains(&name) {
                        self.same[own].push(inner);
                    }
                }
            }
        }
        Ok(own)
    }

    /// What the keywords of one schema must not be.
    fn plain(&mut self, keywords: &Map<String, Value>, place: &str) -> Result<(), String> {
        let at = if place.is_empty() { "the schema" } else { place };
        if let Some(refused) = REFUSED.iter().find(|refused| keywords.contains_key(**refused)) {
            return Err(format!("{at}: {refused} is not supported"));
        }
        if keywords.contains_key("$id") && !place.is_empty() {
            return Err(format!("{at}: only the whole schema can have an $id"));
        }
        if keywords.get("format").is_some_and(|format| format == "regex") {
            return Err(format!("{at}: the format \"regex\" is not supported"));
        }
        // Its text is repeated in every error that it causes.
        if keywords.get("not").is_some_and(|not| not.to_string().len() > limits::SCHEMA_NOT_BYTES) {
            let limit = limits::SCHEMA_NOT_BYTES;
            return Err(format!("{at}: what stands in \"not\" has at most {limit} bytes; put it into $defs and refer to it"));
        }
        self.patterns += usize::from(keywords.contains_key("pattern"));
        self.patterns += keywords.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        if self.patterns > limits::SCHEMA_PATTERNS {
            return Err(format!("a schema has at most {} patterns", limits::SCHEMA_PATTERNS));
        }
        Ok(())
    }

    fn widest(&mut self) -> Result<usize, String> {
        for own in 0..self.same.len() {
            let Some(reference) = self.references[own] else { continue };
            let target = match reference.strip_prefix('#') {
                Some(name) if name.is_empty() || name.starts_with('/') => self.places.get(name),
                Some(name) => self.anchors.get(name),
                None => None,
            };
            let target = *target.ok_or_else(|| format!("$ref: {reference:?} is no schema within this document"))?;
            self.same[own].push(target);
        }
        let mut known = vec![None; self.same.len()];
        let mut widest = 0;
        for own in 0..self.same.len() {
            widest = widest.max(self.extent(own, 0, &mut known)?.0);
        }
        Ok(widest)
    }

    /// How many schemas apply to a value that this one applies to, and how many within each other at most.
    fn extent(&self, own: usize, depth: usize, known: &mut [Option<(usize, usize)>]) -> Result<(usize, usize), String> {
        if let Some(extent) = known[own] {
            return Ok(extent);
        }
        // A cycle is a chain without an end.
        let too_deep =
            || format!("schemas that apply to one value refer to each other in a circle, or more than {} deep", limits::SCHEMA_CHAIN);
        if depth > limits::SCHEMA_CHAIN {
            return Err(too_deep());
        }
        let (mut width, mut chain) = (1usize, 0);
        for inner in &self.same[own] {
            let extent = self.extent(*inner, depth + 1, known)?;
            width = width.saturating_add(extent.0);
            chain = chain.max(extent.1 + 1);
        }
        if width > limits::SCHEMA_WIDTH {
            return Err(format!(
                "at most {} schemas can apply to one value, and with all references followed there are more",
                limits::SCHEMA_WIDTH
            ));
        }
        if chain > limits::SCHEMA_CHAIN {
            return Err(too_deep());
        }
        known[own] = Some((width, chain));
        Ok((width, chain))
    }
}

fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
