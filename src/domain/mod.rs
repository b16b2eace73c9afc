//! Layer 0, pure: no clock, no IO, no async, no SQL, no HTTP. Everything the office decides is decided here.

pub mod actor;
pub mod ask;
pub mod change;
pub mod clock;
pub mod cursor;
pub mod decide;
pub mod delta;
pub mod ids;
pub mod incoming;
pub mod limits;
pub mod merge;
pub mod path;
pub mod record;
pub mod rules;
pub mod schema;
pub mod tally;
