//! A device's place in the server's line of history, and its text form.
//!
//! Clients treat the text as opaque. It names no record and grants nothing: what a device may see is decided afresh by every pull.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The position of a commit; one counter for the whole database.
pub type Seq = i64;

/// A random name of the database's line of history; a restore makes a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Epoch(pub u64);

/// What a pull answers and the next one presents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The line of history that `seq` counts in.
    pub epoch: Epoch,
    /// Everything up to here has been given to the device.
    pub seq: Seq,
    /// Generation of the device's view. Every change of the view raises it, so a right lost and regained still shows.
    pub view: i64,
    /// Which tables were asked for: a hash of their names, 0 for all.
    pub tables: u64,
    /// In a reset that is not finished: the head when it began.
    pub start: Option<Seq>,
}

/// Version of the text form.
const FORM: u8 = 1;

impl Cursor {
    /// 33 or 41 bytes in base64 (URL alphabet, no padding).
    pub fn text(&self) -> String {
        let mut bytes = vec![FORM];
        bytes.extend(self.epoch.0.to_be_bytes());
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.view.to_be_bytes());
        bytes.extend(self.tables.to_be_bytes());
        bytes.extend(self.start.iter().flat_map(|start| start.to_be_bytes()));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Reads the text form; `None` for anything that this server never wrote.
    pub fn parse(text: &str) -> Option<Cursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text.get(..text.len().min(64))?).ok()?;
        let (form, rest) = bytes.split_first()?;
        let (words, tail) = rest.as_chunks::<8>();
        let word = |i: usize| words.get(i).map(|w| u64::from_be_bytes(*w));
        if *form != FORM || !tail.is_empty() || !(4..=5).contains(&words.len()) {
            return None;
        }
        let cursor = Cursor {
            epoch: Epoch(word(0)?),
            seq: word(1)? as i64,
            view: word(2)? as i64,
            tables: word(3)?,
            start: word(4).map(|start| start as i64),
        };
        (cursor.seq >= 0 && cursor.start.is_none_or(|start| start >= 0)).then_some(cursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        for start in [None, Some(0), Some(i64::MAX)] {
            let cursor = Cursor { epoch: Epoch(u64::MAX), seq: 7, view: 3, tables: 9, start };
            assert_eq!(Cursor::parse(&cursor.text()), Some(cursor));
            assert_eq!(Cursor::parse(&cursor.text()[1..]), None);
        }
        for bad in ["", "x", "AAAA", &"A".repeat(10_000), "é", "====", &"_".repeat(44)] {
            assert_eq!(Cursor::parse(bad), None);
        }
    }
}
