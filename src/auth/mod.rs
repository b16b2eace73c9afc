//! Layer 2: passwords, tokens, sessions and the throttle on failures. Who may do what is decided elsewhere.

pub mod password;
pub mod session;
pub mod throttle;
pub mod ticket;
pub mod token;
