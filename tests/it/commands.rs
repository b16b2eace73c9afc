//! The command line, signals, reload.
