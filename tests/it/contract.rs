//! Every call of the API, every problem code, every role: the answers against the description.
