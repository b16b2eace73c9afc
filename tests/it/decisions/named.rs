//! Each rule in a small case that shows it.
