//! `POST /sync/pull`: the request. The answer is written straight from the database's rows by `sync::pull`.

use serde::Deserialize;

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
    pub tables: Option<Vec<String>>,
    /// Records and evictions in a page.
    pub limit: Option<i64>,
    /// Leave out records whose stored state is exactly what this device pushed last.
    #[serde(default)]
    pub exclude_own: Option<bool>,
    /// The device's clock when it sent.
    pub timestamp: Option<String>,
}
