//! Layer 1: wire types, shared by server and client. Shapes only; what they mean is decided elsewhere.

pub mod account;
pub mod problem;
pub mod pull;
pub mod push;
