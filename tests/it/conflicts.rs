//! Who wins: each rule with roles, times, clocks, deletes.
