//! Who sees what: stores, moves, evictions, hidden and absent ids.
