//! The messages between host and guest, and their framing.
