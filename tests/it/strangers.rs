//! Strangers: what people who are nobody send, and what it may cost.
