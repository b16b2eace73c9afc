//! A record as the validator sees it: every look at it is paid for, so that no schema can look for ever.

use std::borrow::Cow;
use std::cell::Cell;
use std::panic::resume_unwind;

use jsonschema::JsonType;
use jsonschema::json::{self, Json, NodeIdentity};
use serde_json::{Map, Number, Value};

thread_local! {
    /// What the check on this thread may still spend, and the price of one value handed over.
    pub(super) static FUEL: Cell<(u64, u64)> = const { Cell::new((0, 1)) };
}

/// The fuel is spent.
#[derive(Debug)]
pub(super) struct Spent;

/// Bytes of a text that errors carry; longer ones are named, not shown.
pub(super) const SHOWN: usize = 60;
/// What an error stands for when it is about a list, an object or a long text: errors keep copies of it.
static LARGE: Value = Value::Null;

fn pay(price: u64) {
    let (left, step) = FUEL.get();
    match left.checked_sub(price) {
        Some(left) => FUEL.set((left, step)),
        // Leaves the validator from any depth; not a panic, so that nothing is reported.
        None => resume_unwind(Box::new(Spent)),
    }
}

fn hand_over() {
    pay(FUEL.get().1);
}

/// The representation.
#[derive(Debug)]
pub(super) struct Metered;

/// One value of a record.
#[derive(Clone, Copy)]
pub(super) struct Node<'a>(pub(super) &'a Value);

/// A list of a record.
pub(super) struct List<'a>(&'a [Value]);

/// An object of a record.
pub(super) struct Object<'a>(&'a Map<String, Value>);

impl Json for Metered {
    type Node<'a> = Node<'a>;
    type PreparedKey = String;
    type StringBuffer = Value;
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(buffer: &mut Value, string: &str, f: impl FnOnce(Node<'_>) -> T) -> T {
        hand_over();
        *buffer = Value::String(string.to_owned());
        f(Node(buffer))
    }
}

impl<'a> json::Node<'a, Metered> for Node<'a> {
    type Object = Object<'a>;
    type Array = List<'a>;
    type Number = Number;

    fn as_object(&self) -> Option<Object<'a>> {
        pay(1);
        self.0.as_object().map(Object)
    }

    fn as_array(&self) -> Option<List<'a>> {
        pay(1);
        self.0.as_array().map(|list| List(list))
    }

    /// What asks for a text reads it through, most likely with a pattern.
    fn as_string(&self) -> Option<Cow<'a, str>> {
        let text = self.0.as_str();
        pay(1 + text.map_or(0, |text| 4 * text.len() as u64));
        text.map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<Number> {
        pay(4);
        self.0.as_number().cloned()
    }

    fn as_boolean(&self) -> Option<bool> {
        pay(1);
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        pay(1);
        self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        pay(1);
        match self.0 {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn is_number(&self) -> bool {
        pay(1);
        self.0.is_number()
    }

    fn is_string(&self) -> bool {
        pay(1);
        self.0.is_string()
    }

    fn string_length(&self) -> Option<u64> {
        let text = self.0.as_str();
        pay(1 + text.map_or(0, |text| text.len() as u64 / 16));
        text.map(|text| text.chars().count() as u64)
    }

    fn equals_value(&self, expected: &Value) -> bool {
        equal(self.0, expected)
    }

    /// Only errors ask for it. They are paid for their room.
    fn to_value(&self) -> Cow<'a, Value> {
        pay(50);
        match self.0 {
            Value::Array(_) | Value::Object(_) => Cow::Borrowed(&LARGE),
            Value::String(text) if text.len() > SHOWN => Cow::Borrowed(&LARGE),
            value => Cow::Borrowed(value),
        }
    }

    fn identity(&self) -> Option<NodeIdentity> {
        pay(1);
        Some(NodeIdentity::new(std::ptr::from_ref(self.0) as usize))
    }
}

fn equal(a: &Value, b: &Value) -> bool {
    pay(2);
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((a_name, a), (b_name, b))| a_name == b_name && equal(a, b))
        }
        (Value::String(a), Value::String(b)) => {
            pay(a.len().min(b.len()) as u64 / 16);
            a == b
        }
        _ => json::cmp::equal(a, b),
    }
}

impl<'a> json::Object<'a, Metered> for Object<'a> {
    type Node = Node<'a>;
    type MemberName = Name<'a>;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        pay(1);
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Node<'a>> {
        hand_over();
        self.0.get(key).map(Node)
    }

    fn members(&self) -> Members<'a> {
        Members(self.0.iter())
    }
}

/// The members of an object.
pub(super) struct Members<'a>(serde_json::map::Iter<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (Name<'a>, Node<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        hand_over();
        self.0.next().map(|(name, value)| (Name(name), Node(value)))
    }
}

/// The name of a member: whoever reads it may hold it against patterns, or keep a copy.
pub(super) struct Name<'a>(&'a str);

impl AsRef<str> for Name<'_> {
    fn as_ref(&self) -> &str {
        pay(1 + self.0.len() as u64);
        self.0
    }
}

impl<'a> From<Name<'a>> for Cow<'a, str> {
    fn from(name: Name<'a>) -> Cow<'a, str> {
        pay(1 + name.0.len() as u64);
        Cow::Borrowed(name.0)
    }
}

impl<'a> json::Array<'a, Metered> for List<'a> {
    type Node = Node<'a>;
    type ElementsIter = Elements<'a>;

    fn len(&self) -> usize {
        pay(1);
        self.0.len()
    }

    fn elements(&self) -> Elements<'a> {
        Elements(self.0.iter())
    }

    /// By sorting: the hash of the crate is one that a record can be made to fool. Records are canonical, so equal values have
    /// equal texts.
    fn is_unique(&self) -> bool {
        let texts = self.0.iter().map(|entry| {
            let text = entry.to_string();
            pay(8 + text.len() as u64);
            text
        });
        let mut texts: Vec<String> = texts.collect();
        texts.sort_unstable();
        texts.windows(2).all(|pair| pair[0] != pair[1])
    }
}

/// The entries of a list.
pub(super) struct Elements<'a>(std::slice::Iter<'a, Value>);

impl<'a> Iterator for Elements<'a> {
    type Item = Node<'a>;

    fn next(&mut self) -> Option<Node<'a>> {
        hand_over();
        self.0.next().map(Node)
    }
}
