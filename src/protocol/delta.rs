//! `POST /sync/delta`: the request. The answer is written by `sync::delta`, which copies values as they are stored.

use serde::Deserialize;
use serde_json::value::RawValue;

/// A record as a client has it.
#[derive(Debug, Deserialize)]
pub struct DeltaRequest<'a> {
    /// The record's table.
    pub table: String,
    /// The record's id.
    pub id: String,
    /// The version that the client's fields began from; none: from nothing.
    #[serde(borrow, default)]
    pub version: Option<&'a RawValue>,
    /// The fields that the client has touched.
    #[serde(borrow, default)]
    pub fields: Option<&'a RawValue>,
}
