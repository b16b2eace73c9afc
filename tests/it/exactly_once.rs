//! Retries of whole pushes and parts of them change nothing twice.
