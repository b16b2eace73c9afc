//! What is removed, when, and what that does to devices.
