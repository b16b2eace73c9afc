//! `POST /sync/verify`: the request, and what the answer says of a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::domain::limits;
use crate::domain::tally::Tally;

/// What a device holds, and what it wants to know.
#[derive(Debug, Default, Deserialize)]
pub struct VerifyRequest {
    /// Must be the token's device, if it is sent.
    pub device_id: Option<String>,
    /// Where its last pull ended.
    pub cursor: Option<String>,
    /// What it holds of each table; all that it may read by default.
    #[serde(default, deserialize_with = "by_table")]
    pub tables: Option<BTreeMap<String, Option<Tally>>>,
    /// Tables whose buckets it wants to compare.
    #[serde(default, deserialize_with = "super::pull::names")]
    pub buckets: Option<Vec<String>>,
    /// Buckets whose records it wants.
    #[serde(default, deserialize_with = "by_table")]
    pub records: Option<BTreeMap<String, BTreeSet<u8>>>,
}

/// What the server has of a table.
#[derive(Debug, Serialize)]
pub struct Verified {
    /// All records of the view.
    #[serde(flatten)]
    pub all: Tally,
    /// The device has the same; none where it did not say what it has.
    pub matches: Option<bool>,
    /// The same by bucket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buckets: Option<Vec<Tally>>,
}

/// A bounded object by table, as the lists of tables in a pull are bounded.
fn by_table<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<BTreeMap<String, T>>, D::Error> {
    struct Tables<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Tables<T> {
        type Value = Option<BTreeMap<String, T>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object by table")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut tables = BTreeMap::new();
            while let Some((name, value)) = map.next_entry()? {
                tables.insert(name, value);
                if tables.len() > limits::PULL_TABLES {
                    return Err(Error::custom(format!("more than {} tables", limits::PULL_TABLES)));
                }
            }
            Ok(Some(tables))
        }
    }
    deserializer.deserialize_any(Tables(PhantomData))
}
