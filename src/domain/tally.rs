//! Counting records so that two sides can tell whether they hold the same ones: a number of records and one hash of them all.
//!
//! The hash is a sum, so records may be counted in any order, by anybody.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::record::Hash;

/// Buckets that a table's records fall into, by their ids.
pub const BUCKETS: usize = 256;

/// So many records, and what they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub count: u64,
    /// The sum of their numbers, modulo 2^128.
    #[serde(with = "digits")]
    pub hash: u128,
}

impl Tally {
    /// Counts a record by its [`number`].
    pub fn add(&mut self, number: u128) {
        self.count += 1;
        self.hash = self.hash.wrapping_add(number);
    }
}

/// A record's number: the first 16 bytes of SHA-256 over id, version and the content's hash, a line each.
pub fn number(id: &str, version: i64, content: Hash) -> u128 {
    u128::from_be_bytes(Hash::of(format!("{id}\n{version}\n{content}").as_bytes()).0)
}

/// A record's bucket: the first byte of its id's SHA-256.
pub fn bucket(id: &str) -> u8 {
    Sha256::digest(id)[0]
}

/// 32 hexadecimal digits.
mod digits {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(number: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:032x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        let text = String::deserialize(deserializer)?;
        let whole = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u128::from_str_radix(&text, 16).ok().filter(|_| whole);
        number.ok_or_else(|| D::Error::custom("a hash is 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `printf 'a\n1\n44136fa355b3678a1146ad16f7e8649e' | sha256sum`, and `printf a | sha256sum`.
    #[test]
    fn known_numbers() {
        let one = number("a", 1, Hash::parse("44136fa355b3678a1146ad16f7e8649e").unwrap());
        assert_eq!(format!("{one:032x}"), "c0359fd53a326f2e63c3fc23bd33fdf7");
        assert_eq!(bucket("a"), 0xca);
    }

    #[test]
    fn the_order_does_not_matter_and_the_sum_goes_round() {
        let mut tally = Tally::default();
        assert_eq!(serde_json::to_string(&tally).unwrap(), r#"{"count":0,"hash":"00000000000000000000000000000000"}"#);
        for number in [u128::MAX, 17, 1 << 100] {
            tally.add(number);
        }
        assert_eq!(tally, Tally { count: 3, hash: 16 + (1 << 100) });
        let text = serde_json::to_string(&tally).unwrap();
        assert_eq!(serde_json::from_str::<Tally>(&text).unwrap(), tally, "{text}");
        let long = "0".repeat(33);
        for odd in ["", "0", "+0000000000000000000000000000000", "g0000000000000000000000000000000", &long] {
            assert!(serde_json::from_str::<Tally>(&format!(r#"{{"count":1,"hash":"{odd}"}}"#)).is_err(), "{odd}");
        }
    }
}
