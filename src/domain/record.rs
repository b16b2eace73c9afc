//! A record's content: canonical JSON (RFC 8785) and its hash.
//!
//! Content is kept as text and compared as text: two values are equal exactly when their canonical forms are.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;

use sha2::{Digest, Sha256};

/// Content's identity: the first 16 bytes of SHA-256 over its canonical form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Hash(pub [u8; 16]);

impl Hash {
    /// The hash of these bytes.
    pub fn of(bytes: &[u8]) -> Hash {
        let digest = Sha256::digest(bytes);
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        Hash(hash)
    }

    /// 32 hexadecimal digits. A client may send all 64 of SHA-256; the first 32 count.
    pub fn parse(text: &str) -> Option<Hash> {
        if !(text.len() == 32 || text.len() == 64) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        let mut hash = [0; 16];
        for (i, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Hash(hash))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits: [u8; 32] = std::array::from_fn(|i| DIGITS[usize::from((self.0[i / 2] >> (4 - i % 2 * 4)) & 15)]);
        f.write_str(std::str::from_utf8(&digits).unwrap_or_default())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where one field stands in the text: the name (with its quotes) and the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: Range<u32>,
    pub(super) value: Range<u32>,
}

/// The app's fields of a record: one JSON object in canonical form.
#[derive(Debug, Clone)]
pub struct Content {
    pub(super) text: String,
    pub(super) fields: Vec<Field>,
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Content {}

impl Default for Content {
    fn default() -> Self {
        Content { text: "{}".into(), fields: Vec::new() }
    }
}

impl Content {
    /// Content from text that is canonical already: what the database holds, or what this file wrote.
    pub fn trusted(text: String) -> Content {
        let fields = scan(text.as_bytes());
        Content { text, fields }
    }

    /// The canonical text, `{…}`.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The canonical text, given away.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Its identity.
    pub fn hash(&self) -> Hash {
        Hash::of(self.text.as_bytes())
    }

    fn slice(&self, range: &Range<u32>) -> &str {
        &self.text[range.start as usize..range.end as usize]
    }

    /// A field's canonical value by its plain name; `None` where it is absent.
    pub fn field(&self, name: &str) -> Option<&str> {
        const FEW: usize = 32;
        let found = if self.fields.len() <= FEW {
            // Hardly any name has something to escape; then it stands between its quotes as it is.
            let stands = |text: &str| if text.contains('\\') { text == quote(name) } else { text[1..text.len() - 1] == *name };
            self.fields.iter().find(|f| stands(self.slice(&f.name)))
        } else {
            let quoted = quote(name);
            let place = self.fields.binary_search_by(|f| compare(self.slice(&f.name), &quoted)).ok();
            place.map(|place| &self.fields[place])
        };
        found.map(|f| self.slice(&f.value))
    }

    /// A field that is present and not null.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.field(name).filter(|v| *v != "null")
    }

    /// All fields in canonical order, names with their quotes.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|f| (self.slice(&f.name), self.slice(&f.value)))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The fields of two contents side by side, in canonical order: name with its quotes, value here, value there, value in a
    /// third.
    pub fn beside<'a>(&'a self, other: &'a Content, third: Option<&'a Content>) -> impl Iterator<Item = Beside<'a>> {
        let (mut a, mut b) = (self.fields().peekable(), other.fields().peekable());
        let mut c = third.into_iter().flat_map(Content::fields).peekable();
        std::iter::from_fn(move || {
            let order = match (a.peek(), b.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((x, _)), Some((y, _))) => compare(x, y),
            };
            let here = if order == Ordering::Greater { None } else { a.next() };
            let there = if order == Ordering::Less { None } else { b.next() };
            let name = here.or(there)?.0;
            while c.next_if(|(other, _)| compare(other, name) == Ordering::Less).is_some() {}
            let value = c.next_if(|(other, _)| *other == name);
            Some((name, here.map(|f| f.1), there.map(|f| f.1), value.map(|f| f.1)))
        })
    }

    /// The same content with one field set to a canonical value.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Content {
        let quoted = quote(name);
        let mut all: Vec<(&str, &str)> = self.fields().filter(|(n, _)| *n != quoted).collect();
        let place = all.partition_point(|(n, _)| compare(n, &quoted) == Ordering::Less);
        all.insert(place, (&quoted, value));
        Content::from_fields(all)
    }

    /// Content of fields in canonical order, names with their quotes.
    pub fn from_fields<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Content {
        let (mut text, mut places) = (String::from("{"), Vec::new());
        for (name, value) in fields {
            if text.len() > 1 {
                text.push(',');
            }
            let start = text.len() as u32;
            text.push_str(name);
            let middle = text.len() as u32;
            text.push(':');
            text.push_str(value);
            places.push(Field { name: start..middle, value: middle + 1..text.len() as u32 });
        }
        text.push('}');
        Content { text, fields: places }
    }

    /// The plain names of the fields in which two contents differ, in canonical order.
    pub fn differences(&self, other: &Content) -> Vec<String> {
        let differing = self.beside(other, None).filter(|(_, here, there, _)| here != there);
        differing.map(|(name, ..)| unquote(name).into_owned()).collect()
    }
}

/// A field of several contents: its name with the quotes, and its value in each.
pub type Beside<'a> = (&'a str, Option<&'a str>, Option<&'a str>, Option<&'a str>);

/// A plain name as canonical JSON.
pub fn quote(name: &str) -> Cow<'static, str> {
    let mut text = String::with_capacity(name.len() + 2);
    write_string(&mut text, name);
    Cow::Owned(text)
}

/// A canonical string's plain text.
pub fn unquote(text: &str) -> Cow<'_, str> {
    let inner = text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    if inner.contains('\\') { serde_json::from_str(text).map_or(Cow::Borrowed(inner), Cow::Owned) } else { Cow::Borrowed(inner) }
}

/// RFC 8785 section 3.2.3: names sort by their UTF-16 code units.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let plain = |s: &str| s.is_ascii() && !s.as_bytes().contains(&b'\\');
    if plain(a) && plain(b) {
        return a.as_bytes()[1..a.len() - 1].cmp(&b.as_bytes()[1..b.len() - 1]);
    }
    unquote(a).encode_utf16().cmp(unquote(b).encode_utf16())
}

/// Finds the fields of a canonical object.
fn scan(text: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    let string_end = |mut at: usize| {
        at += 1;
        while at < text.len() && text[at] != b'"' {
            at += if text[at] == b'\\' { 2 } else { 1 };
        }
        at + 1
    };
    let mut at = 1;
    while at < text.len() && text[at] == b'"' {
        let name = at as u32..string_end(at) as u32;
        let (start, mut depth) = (name.end as usize + 1, 0usize);
        at = start;
        while at < text.len() {
            match text[at] {
                b'"' => {
                    at = string_end(at);
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' if depth > 0 => depth -= 1,
                b',' | b'}' if depth == 0 => break,
                _ => {}
            }
            at += 1;
        }
        fields.push(Field { name, value: start as u32..at as u32 });
        at += 1;
    }
    fields
}

pub(super) fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut done = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x09 => "\\t",
            0x0a => "\\n",
            0x0c => "\\f",
            0x0d => "\\r",
            0..=0x1f => "",
            _ => continue,
        };
        out.push_str(&text[done..at]);
        if escape.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escape);
        }
        done = at + 1;
    }
    out.push_str(&text[done..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes() {
        let hash = Content::default().hash();
        assert_eq!(hash.to_string(), "44136fa355b3678a1146ad16f7e8649e", "sha256 of {{}}");
        assert_eq!(Hash::parse(&hash.to_string()), Some(hash));
        assert_eq!(Hash::parse("44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"), Some(hash));
        assert_eq!(Hash::parse("zz"), None);
    }
}
