//! The description of the API, OpenAPI 3.1. The tests validate every answer that they receive against it.

/// The document, JSON.
pub const DOCUMENT: &str = include_str!("openapi.json");
