//! Backroom, a sync appliance: store apps work offline and bring their changes together through it.
//!
//! The modules in layer order; a layer uses only those above it in this list (ARCHITECTURE.md, `tests/layers.rs`).

pub mod domain;

pub mod protocol;
pub mod sqlite;

pub mod telemetry;

pub mod auth;
pub mod script;
pub mod store;

pub mod hub;

pub mod ops;
pub mod sync;

pub mod http;

pub mod config;

pub mod server;

pub mod cli;
