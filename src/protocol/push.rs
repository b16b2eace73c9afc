//! `POST /sync/push`: the request in both of its forms.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::limits;

/// A push. Changes are kept as raw text here, so that one bad change is refused by itself.
#[derive(Debug, Deserialize)]
pub struct PushRequest<'a> {
    /// Must be the token's device, if it is sent.
    pub device_id: Option<String>,
    /// The device's clock when it sent.
    pub timestamp: Option<String>,
    /// What the device had pulled.
    pub cursor: Option<String>,
    /// The same, where a client has no cursor.
    pub last_sync_timestamp: Option<String>,
    /// Whole records by table.
    #[serde(borrow, default)]
    pub changes: Tables<'a>,
    /// Queued operations.
    #[serde(borrow, default)]
    pub operations: Option<Entries<'a>>,
    /// Answer what would happen, and change nothing.
    #[serde(default)]
    pub dry_run: Option<bool>,
    /// All or nothing.
    #[serde(default)]
    pub atomic: Option<bool>,
    /// What the device says of itself.
    #[serde(borrow)]
    pub report: Option<&'a RawValue>,
}

/// Raw entries in the order of the request. Those beyond what a push may hold are counted and not kept: millions of them
/// fit into one body, and a body must not take many times its own size.
#[derive(Debug, Default)]
pub struct Entries<'a> {
    /// At most [`limits::PUSH_CHANGES`] of them.
    pub kept: Vec<&'a RawValue>,
    /// How many there were.
    pub count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Counted(0))
    }
}

/// Reads entries after so many others.
struct Counted(usize);

impl<'de> Visitor<'de> for Counted {
    type Value = Entries<'de>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut entries = Entries::default();
        while let Some(raw) = seq.next_element()? {
            if self.0 + entries.count < limits::PUSH_CHANGES {
                entries.kept.push(raw);
            }
            entries.count += 1;
        }
        Ok(entries)
    }
}

impl<'de> DeserializeSeed<'de> for Counted {
    type Value = Entries<'de>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

/// Records by table, in the order of the request.
#[derive(Debug, Default)]
pub struct Tables<'a> {
    /// Each table's records; tables without any are left out.
    pub lists: Vec<(String, Vec<&'a RawValue>)>,
    /// How many records there were.
    pub count: usize,
}

impl<'de: 'a, 'a> Deserialize<'de> for Tables<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;
        impl<'de> Visitor<'de> for Read {
            type Value = Tables<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tables, each a list of records")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Tables::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut tables = Tables::default();
                while let Some(name) = map.next_key::<String>()? {
                    let entries = map.next_value_seed(Counted(tables.count))?;
                    tables.count += entries.count;
                    if !entries.kept.is_empty() {
                        tables.lists.push((name, entries.kept));
                    }
                }
                Ok(tables)
            }
        }
        deserializer.deserialize_any(Read)
    }
}

/// The names in an operation, for one that is otherwise not understood.
#[derive(Debug, Default, Deserialize)]
pub struct OperationNames<'a> {
    /// `op_id`.
    #[serde(borrow)]
    pub op_id: Option<&'a RawValue>,
    /// `table`.
    #[serde(borrow)]
    pub table: Option<&'a RawValue>,
    /// `id`.
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
}

/// One queued operation.
#[derive(Debug, Deserialize)]
pub struct Operation<'a> {
    /// The client's name for it.
    pub op_id: Option<String>,
    /// The record's table.
    pub table: String,
    /// The record's id.
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    /// `create`, `update` or `delete`.
    pub op: String,
    /// The whole record.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// A JSON Merge Patch over the base.
    #[serde(borrow)]
    pub patch: Option<&'a RawValue>,
    /// What the edit began from. `Some(None)`: `null`, that is nothing.
    #[serde(borrow, default, deserialize_with = "present")]
    pub base: Option<Option<&'a RawValue>>,
    /// The device's clock at the edit.
    pub updated_at: Option<String>,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<&'a RawValue>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// The base of an operation: one of the three.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperationBase<'a> {
    /// The version that the client was given.
    pub version: Option<i64>,
    /// Hash of the canonical content.
    pub hash: Option<String>,
    /// The whole content.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
}

/// What a device says of itself; kept as it last said it. A value that is not of its kind is left out: no change waits for
/// a report to be mended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// The device's name.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Changes that wait on it.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub pending: Option<u64>,
    /// Changes that it gave up on.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    /// Syncs tried.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u64>,
    /// Syncs failed.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub failures: Option<u64>,
    /// Age of the oldest waiting change, seconds.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub oldest_pending_s: Option<f64>,
    /// The app's version.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub app_version: Option<String>,
    /// What it runs on.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// That system's version.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// How it is connected.
    #[serde(default, deserialize_with = "lenient", skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

impl Report {
    /// Reads one, bounded; `None` where it is no object.
    pub fn read(text: &str) -> Option<Report> {
        // A list would be taken for the fields in their order.
        let report: Report = text.trim_ascii_start().starts_with('{').then(|| serde_json::from_str(text).ok())??;
        Some(report.bounded())
    }

    /// Cuts every text to a bounded length and every number to one that JSON has exactly.
    fn bounded(mut self) -> Report {
        let texts = [&mut self.name, &mut self.app_version, &mut self.platform, &mut self.os_version, &mut self.network];
        for text in texts.into_iter().flatten() {
            *text = text.chars().take(limits::LABEL_CHARS).collect();
        }
        for count in [&mut self.pending, &mut self.failed, &mut self.attempts, &mut self.failures].into_iter().flatten() {
            *count = (*count).min(limits::REPORTED);
        }
        self.oldest_pending_s = self.oldest_pending_s.filter(|age| *age >= 0.0).map(|age| age.min(limits::REPORTED as f64));
        self
    }
}

fn lenient<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let raw = <&RawValue>::deserialize(deserializer)?;
    Ok(serde_json::from_str(raw.get()).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_what_can_be_understood_of_it() {
        let kept = |text: &str| serde_json::to_string(&Report::read(text).unwrap()).unwrap();
        assert_eq!(kept(r#"{"pending":3,"failed":-1,"attempts":"4","failures":1.5,"oldest_pending_s":1e400}"#), r#"{"pending":3}"#);
        assert_eq!(kept(r#"{"pending":18446744073709551615,"oldest_pending_s":-1}"#), r#"{"pending":1000000000000}"#);
        assert_eq!(kept(r#"{"oldest_pending_s":7,"name":null,"os_version":{"a":[]},"more":[1]}"#), r#"{"oldest_pending_s":7.0}"#);
        assert_eq!(kept(&format!(r#"{{"name":"{}"}}"#, "é".repeat(500))), format!(r#"{{"name":"{}"}}"#, "é".repeat(200)));
        for text in ["null", "7", "[3]", "\"x\"", r#"{"pending":1,"pending":2}"#] {
            assert!(Report::read(text).is_none(), "{text}");
        }
    }
}
