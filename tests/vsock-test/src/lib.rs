//! The real host end against the real guest end.
