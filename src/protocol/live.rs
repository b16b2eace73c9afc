//! Messages of a live connection: `{"type": …, "id": …, "payload": {…}}` in both directions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Characters of a message's id.
pub const ID_CHARS: usize = 128;

/// A message from a client.
#[derive(Debug, Deserialize)]
pub struct Message<'a> {
    /// What it asks for: a text.
    #[serde(rename = "type", borrow, default)]
    kind: Option<&'a RawValue>,
    /// Names the message; the answer has the same.
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    /// An object, by the kind.
    #[serde(borrow, default)]
    pub payload: Option<&'a RawValue>,
}

impl<'a> Message<'a> {
    /// What it asks for; empty where that is not a text.
    pub fn kind(&self) -> Cow<'a, str> {
        self.kind.and_then(|kind| serde_json::from_str(kind.get()).ok()).unwrap_or_default()
    }

    /// The id as JSON text, `null` where there is none. `None`: it is neither a text nor a number, or too long.
    pub fn id(&self) -> Option<&'a str> {
        let Some(id) = self.id else { return Some("null") };
        let text = id.get();
        let length = match text.as_bytes() {
            [b'"', ..] => serde_json::from_str::<String>(text).ok()?.chars().count(),
            [b'{' | b'[' | b't' | b'f', ..] => return None,
            number => number.len(),
        };
        (length <= ID_CHARS).then_some(text)
    }
}

/// Payload of `subscribe` and `unsubscribe`.
#[derive(Debug, Default, Deserialize)]
pub struct Tables {
    /// Names; left out: all that the caller may read.
    pub tables: Option<Vec<String>>,
}

/// Payload of `hello`.
#[derive(Debug, Serialize)]
pub struct Hello {
    /// The line of history, hexadecimal.
    pub epoch: String,
    /// The newest position, of the listener's view.
    pub cursor: String,
    /// The appliance's version.
    pub version: &'static str,
    /// The appliance's clock.
    pub timestamp: String,
}

/// Payload of `subscribed`: what the listener is told of from now on.
#[derive(Debug, Serialize)]
pub struct Subscribed<'a> {
    /// Names of tables.
    pub tables: Vec<&'a str>,
}

/// Payload of `change_notification`.
#[derive(Debug, Serialize)]
pub struct Hint<'a> {
    /// The position of the newest change, never to be adopted.
    pub cursor: String,
    /// What changed.
    pub tables: BTreeMap<&'a str, Changes<'a>>,
}

/// Changes of one table in a hint.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Changes<'a> {
    /// A few, by name.
    Named(Vec<Change<'a>>),
    /// Many: how many.
    Count(u64),
}

/// One change in a hint.
#[derive(Debug, Serialize)]
pub struct Change<'a> {
    /// The record's id.
    pub id: &'a str,
    /// `create`, `update`, `delete`, or `evict`: it left the view.
    pub operation: &'static str,
    /// The record's version; `null` for one that left.
    pub version: Option<i64>,
}

/// Payload of `conflict_notification`.
#[derive(Debug, Serialize)]
pub struct Conflict<'a> {
    /// The conflict's id.
    pub conflict_id: &'a str,
    /// The record's table.
    pub table: &'a str,
    /// The record's id.
    pub record_id: &'a str,
    /// `open` or `resolved`.
    pub status: &'a str,
    /// `use_client`, `use_server` or `use_merged`.
    pub suggested_resolution: &'a str,
}

/// Payload of `conflict_notification` where many came at once: look into the inbox.
#[derive(Debug, Serialize)]
pub struct Conflicts {
    /// How many there are beside those that were named.
    pub count: u64,
}

/// A message to a client. `id` and `payload` are JSON.
pub fn message(kind: &str, id: &str, payload: &str) -> String {
    format!(r#"{{"type":"{kind}","id":{id},"payload":{payload}}}"#)
}

/// The answer to `POST /auth/ticket`.
#[derive(Debug, Serialize)]
pub struct Ticket {
    /// The secret, good for one connection.
    pub ticket: String,
    /// Seconds for which it is valid.
    pub expires_in: u64,
}
