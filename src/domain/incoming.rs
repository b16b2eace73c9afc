//! From any JSON to canonical content (RFC 8785), and what the protocol owns taken out on the way.
//!
//! The four fields of the protocol (`id`, `version`, `updated_at`, `deleted`) are never content.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::limits;
use super::record::{Content, Field, compare, write_string};

/// A record as it came in: content, and what the protocol owns.
#[derive(Debug, Default)]
pub struct Incoming {
    /// `id`, as sent.
    pub id: Option<Value>,
    /// `version`, as sent.
    pub version: Option<Value>,
    /// `updated_at`, as sent.
    pub updated_at: Option<Value>,
    /// `deleted`, as sent.
    pub deleted: Option<Value>,
    /// Everything else.
    pub content: Content,
}

impl Incoming {
    /// Reads a JSON object of any size. The error says what is wrong with it: not an object, a name twice, too deep, …
    pub fn parse(json: &str) -> Result<Incoming, String> {
        let mut incoming = Incoming::default();
        let mut reader = serde_json::Deserializer::from_str(json);
        let top = Top { incoming: &mut incoming, size: json.len() };
        top.deserialize(&mut reader).and_then(|()| reader.end()).map_err(|e| describe(&e))?;
        Ok(incoming)
    }
}

/// serde_json's message without its line and column, which would be those of a part of the request.
fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text[..end].to_owned()
}

impl Content {
    /// Canonical content from any JSON object; fields of the protocol in it stay fields.
    pub fn from_value(value: &Value) -> Result<Content, String> {
        let mut text = String::new();
        let canon = Canon { out: &mut text, depth: 0 };
        canon.deserialize(value).map_err(|e| describe(&e))?;
        if !text.starts_with('{') {
            return Err("a record is a JSON object".into());
        }
        Ok(Content::trusted(text))
    }
}

/// Writes any JSON value in canonical form.
struct Canon<'a> {
    out: &'a mut String,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Canon<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Canon<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<(), E> {
        self.out.push_str(if v { "true" } else { "false" });
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        self.out.push_str("null");
        Ok(())
    }
    // Integers of 64 bits are kept exactly, beyond what RFC 8785 asks (it has only doubles): nothing is rounded silently.
    fn visit_i64<E>(self, v: i64) -> Result<(), E> {
        self.out.push_str(&v.to_string());
        Ok(())
    }
    fn visit_u64<E>(self, v: u64) -> Result<(), E> {
        self.out.push_str(&v.to_string());
        Ok(())
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<(), E> {
        if !v.is_finite() {
            return Err(E::custom("number out of range"));
        }
        self.out.push_str(ryu_js::Buffer::new().format_finite(if v == 0.0 { 0.0 } else { v }));
        Ok(())
    }
    fn visit_str<E>(self, v: &str) -> Result<(), E> {
        write_string(self.out, v);
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let depth = deeper::<A::Error>(self.depth)?;
        self.out.push('[');
        let start = self.out.len();
        loop {
            let before = self.out.len();
            if before > start {
                self.out.push(',');
            }
            if seq.next_element_seed(Canon { out: self.out, depth })?.is_none() {
                self.out.truncate(before);
                break;
            }
        }
        self.out.push(']');
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        write_object(self.out, self.depth, map, None).map(|_| ())
    }
}

fn deeper<E: serde::de::Error>(depth: usize) -> Result<usize, E> {
    if depth >= limits::JSON_DEPTH { Err(E::custom("nested deeper than 64")) } else { Ok(depth + 1) }
}

/// Writes an object with sorted names and returns where its fields stand. `incoming` takes out what the protocol owns.
fn write_object<'de, A: MapAccess<'de>>(
    out: &mut String,
    depth: usize,
    mut map: A,
    mut incoming: Option<&mut Incoming>,
) -> Result<Vec<Field>, A::Error> {
    let depth = deeper::<A::Error>(depth)?;
    out.push('{');
    let start = out.len();
    let mut fields: Vec<Field> = Vec::with_capacity(8);
    let mut sorted = true;
    while let Some(key) = map.next_key_seed(Key)? {
        if let Some(incoming) = incoming.as_deref_mut()
            && let Some(place) = incoming.owned(&key)
        {
            if place.is_some() {
                return Err(A::Error::custom(format!("the name {key:?} stands twice")));
            }
            *place = Some(map.next_value_seed(Plain)?);
            continue;
        }
        if out.len() > start {
            out.push(',');
        }
        let name = out.len() as u32;
        write_string(out, &key);
        let end = out.len() as u32;
        out.push(':');
        map.next_value_seed(Canon { out, depth })?;
        let field = Field { name: name..end, value: end + 1..out.len() as u32 };
        if let Some(last) = fields.last() {
            let text = |r: &Range<u32>| &out[r.start as usize..r.end as usize];
            sorted = sorted && compare(text(&last.name), text(&field.name)) == Ordering::Less;
        }
        fields.push(field);
    }
    if !sorted {
        let old = out[start..].to_owned();
        let text = |r: &Range<u32>| &old[r.start as usize - start..r.end as usize - start];
        fields.sort_by(|a, b| compare(text(&a.name), text(&b.name)));
        if let Some(pair) = fields.windows(2).find(|pair| text(&pair[0].name) == text(&pair[1].name)) {
            return Err(A::Error::custom(format!("the name {} stands twice", text(&pair[0].name))));
        }
        out.truncate(start);
        for field in &mut fields {
            if out.len() > start {
                out.push(',');
            }
            let at = out.len() as u32;
            out.push_str(&old[field.name.start as usize - start..field.value.end as usize - start]);
            let (name, value) = (field.name.end - field.name.start, field.value.end - field.name.start);
            *field = Field { name: at..at + name, value: at + name + 1..at + value };
        }
    }
    out.push('}');
    Ok(fields)
}

/// A text, number, true, false or null. Lists and objects are read as empty ones: none of them is right where these stand,
/// and as a tree they could take many times the memory of their text.
struct Plain;

impl<'de> DeserializeSeed<'de> for Plain {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Plain {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Array(Vec::new()))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object(serde_json::Map::new()))
    }
}

/// Reads a text, number, true, false or null; lists and objects as empty ones, what is no JSON as `None`.
pub fn plain(json: &str) -> Option<Value> {
    Plain.deserialize(&mut serde_json::Deserializer::from_str(json)).ok()
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(v.to_owned()))
    }
}

impl Incoming {
    fn owned(&mut self, key: &str) -> Option<&mut Option<Value>> {
        match key {
            "id" => Some(&mut self.id),
            "version" => Some(&mut self.version),
            "updated_at" => Some(&mut self.updated_at),
            "deleted" => Some(&mut self.deleted),
            _ => None,
        }
    }
}

struct Top<'a> {
    incoming: &'a mut Incoming,
    /// Length of what is read: the canonical form is hardly ever longer.
    size: usize,
}

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record, which is a JSON object")
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<(), A::Error> {
        let mut text = String::with_capacity(self.size);
        let fields = write_object(&mut text, 0, map, Some(&mut *self.incoming))?;
        self.incoming.content = Content { text, fields };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(json: &str) -> String {
        Incoming::parse(json).unwrap().content.into_text()
    }

    #[test]
    fn canonical_form() {
        for (json, expected) in [
            ("{}", "{}"),
            (r#" { "b" : 1.0 , "a" : [ 1e2 , -0 , -0.0, 0.1 ] } "#, r#"{"a":[100,0,0,0.1],"b":1}"#),
            (r#"{"b":{"z":1,"y":{"x":null,"w":true}},"a":[]}"#, r#"{"a":[],"b":{"y":{"w":true,"x":null},"z":1}}"#),
            (
                r#"{"n":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001]}"#,
                r#"{"n":[333333333.3333333,1e+30,4.5,0.002,1e-27]}"#,
            ),
            (r#"{"s":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/"}"#, "{\"s\":\"€$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"),
            (
                r#"{"\u20ac":1,"\r":2,"\ufb33":3,"1":4,"\ud83d\ude00":5,"\u0080":6,"\u00f6":7}"#,
                "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"ö\":7,\"€\":1,\"😀\":5,\"\u{fb33}\":3}",
            ),
            (
                r#"{"n":[9007199254740993,18446744073709551615,-9223372036854775808,1e20,1e21]}"#,
                r#"{"n":[9007199254740993,18446744073709551615,-9223372036854775808,100000000000000000000,1e+21]}"#,
            ),
        ] {
            assert_eq!(canonical(json), expected, "{json}");
        }
    }

    #[test]
    fn refusals() {
        let deep = |n: usize| format!("{{\"a\":{}1{}}}", "[".repeat(n), "]".repeat(n));
        assert!(Incoming::parse(&deep(63)).is_ok());
        for (json, reason) in [
            (deep(64).as_str(), "nested deeper"),
            (deep(100_000).as_str(), "nested deeper"),
            (r#"{"a":1,"b":2,"a":3}"#, "stands twice"),
            (r#"{"x":{"a":1,"\u0061":3}}"#, "stands twice"),
            (r#"{"id":"a","id":"b"}"#, "stands twice"),
            ("[]", "a record, which is a JSON object"),
            ("7", "a record, which is a JSON object"),
            (r#"{"n":1e400}"#, "number out of range"),
            (r#"{"s":"\ud800"}"#, "surrogate"),
        ] {
            let error = Incoming::parse(json).unwrap_err();
            assert!(error.contains(reason) || reason == "surrogate", "{json:.40}: {error}");
        }
    }

    #[test]
    fn protocol_fields_are_taken_out() {
        let record = Incoming::parse(r#"{"id":"x","z":1,"version":3,"updated_at":"t","deleted":false,"a":{"id":1}}"#).unwrap();
        assert_eq!(record.content.text(), r#"{"a":{"id":1},"z":1}"#);
        assert_eq!((record.id.unwrap(), record.version.unwrap()), ("x".into(), 3.into()));
    }

    #[test]
    fn fields_of_text_and_of_parsing_agree() {
        let json = r#"{"z":{"q":"}\",{"},"a":[1,{"b":2}],"m":"x\\","e\"s":null,"":0}"#;
        let parsed = Incoming::parse(json).unwrap().content;
        let scanned = Content::trusted(parsed.text().to_owned());
        assert_eq!(parsed.fields, scanned.fields);
        assert_eq!(scanned.field("z"), Some(r#"{"q":"}\",{"}"#));
        assert_eq!((scanned.field("e\"s"), scanned.value("e\"s")), (Some("null"), None));
        assert_eq!(scanned.field("q"), None);
        let with = scanned.with("k", "\"v\"").with("z", "1");
        assert_eq!(with.text(), r#"{"":0,"a":[1,{"b":2}],"e\"s":null,"k":"v","m":"x\\","z":1}"#);
        assert_eq!(with.differences(&scanned), ["k", "z"]);
        assert_eq!(Content::default().differences(&with).len(), 6);
        assert_eq!(Content::trusted(with.text().to_owned()), with);
    }
}
