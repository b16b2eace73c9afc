//! What a call may cost, by query plans and VM steps.
