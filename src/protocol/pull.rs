//! `POST /sync/pull`: the request. The answer is written straight from the database's rows by `sync::pull`.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};

use crate::domain::limits;

/// A pull.
#[derive(Debug, Default, Deserialize)]
pub struct PullRequest {
    /// Must be the token's device, if it is sent.
    pub device_id: Option<String>,
    /// Where the last pull ended; none: from zero.
    pub cursor: Option<String>,
    /// Instead of a cursor, the `timestamp` of an earlier answer.
    pub last_sync_timestamp: Option<String>,
    /// Only these; all that the device may read by default.
    #[serde(default, deserialize_with = "names")]
    pub tables: Option<Vec<String>>,
    /// Records and evictions in a page.
    pub limit: Option<i64>,
    /// Leave out records whose stored state is exactly what this device pushed last.
    #[serde(default)]
    pub exclude_own: Option<bool>,
    /// The device's clock when it sent.
    pub timestamp: Option<String>,
}

/// A bounded list of names: a body holds millions of them, and no office has so many tables.
pub(super) fn names<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = Option<Vec<String>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of tables")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = seq.next_element()? {
                if names.len() == limits::PULL_TABLES {
                    return Err(Error::custom(format!("more than {} tables", limits::PULL_TABLES)));
                }
                names.push(name);
            }
            Ok(Some(names))
        }
    }
    deserializer.deserialize_any(Names)
}
