//! Layer 1: wire types, shared by server and client. Shapes only; what they mean is decided elsewhere.

pub mod account;
pub mod conflicts;
pub mod delta;
pub mod problem;
pub mod pull;
pub mod push;
pub mod verify;

/// Reads a JSON object. By itself serde would also take a list, whose elements are the fields in their order.
pub fn object<'a, T: serde::Deserialize<'a>>(json: &'a [u8]) -> serde_json::Result<T> {
    match json.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(json),
        _ => Err(serde::de::Error::custom("it is no JSON object")),
    }
}
