//! The integration tests: one binary, a module per story. `support` has the appliance, the device and the answers' check.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in tests a failed unwrap is the failed test")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

#[allow(dead_code, unused_imports, reason = "shared by all stories; each uses another part")]
mod support;

mod accounts;
mod commands;
mod conflicts;
mod contract;
mod costs;
mod counters;
mod decisions;
mod durability;
mod exactly_once;
mod guide;
mod inbox;
mod live;
mod metrics;
mod oracle;
mod presets;
mod pulling;
mod retention;
mod scripts;
mod smoke;
mod strangers;
mod verifying;
mod visibility;
