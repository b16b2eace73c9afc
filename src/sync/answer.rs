//! Writing answers: records go out as the database has them, without being parsed again.

use crate::domain::clock::{self, Micros};

/// Appends a record: the protocol's fields in front of the content, which is canonical JSON text already.
pub fn record(out: &mut Vec<u8>, id: &[u8], version: i64, updated_at: Micros, deleted: bool, content: &[u8]) {
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(id);
    out.extend_from_slice(b"\",\"version\":");
    number(out, version);
    out.extend_from_slice(b",\"updated_at\":\"");
    clock::write(out, updated_at);
    out.push(b'"');
    if deleted {
        out.extend_from_slice(b",\"deleted\":true}");
    } else if content.len() > 2 {
        out.push(b',');
        out.extend_from_slice(&content[1..]);
    } else {
        out.push(b'}');
    }
}

/// Appends a whole number.
pub fn number(out: &mut Vec<u8>, number: i64) {
    use std::io::Write;
    let _ = write!(out, "{number}");
}

/// Appends a text as a JSON string.
pub fn string(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

/// Appends a time as a JSON string.
pub fn time(out: &mut Vec<u8>, time: Micros) {
    out.push(b'"');
    clock::write(out, time);
    out.push(b'"');
}

/// Lists by table, written side by side and joined at the end: `{"a":[…],"b":[…]}`.
#[derive(Debug, Default)]
pub struct ByTable {
    tables: Vec<(String, Vec<u8>)>,
}

impl ByTable {
    /// The list of a table, ready for its next element.
    pub fn next(&mut self, table: &str) -> &mut Vec<u8> {
        let at = match self.tables.iter().rposition(|(name, _)| name == table) {
            Some(at) => at,
            None => {
                self.tables.push((table.to_owned(), Vec::new()));
                self.tables.len() - 1
            }
        };
        let list = &mut self.tables[at].1;
        if !list.is_empty() {
            list.push(b',');
        }
        list
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.tables.iter().map(|(_, list)| list.len()).sum()
    }

    /// Appends all of it.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (place, (table, list)) in self.tables.iter().enumerate() {
            if place > 0 {
                out.push(b',');
            }
            string(out, table);
            out.extend_from_slice(b":[");
            out.extend_from_slice(list);
            out.push(b']');
        }
        out.push(b'}');
    }
}
