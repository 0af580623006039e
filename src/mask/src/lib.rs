//! Replaces secrets in texts by `***`, also in common encodings.
//!
//! The guest's agent, the embedded platform and the runner use this crate. The proxy's addon
//! (`intercept/proxy/egress/mask.py`) implements the same encodings in Python; `vectors.json` holds
//! the test vectors of all of them.
//!
//! A text is searched twice for the secret and its variants: unchanged, and with its escapes decoded. So
//! the number of patterns does not depend on the number of ways to escape a character.
//!
//! | encoding | found by |
//! |---|---|
//! | plain; without white space at its ends; each line of 8 bytes or more | a pattern ([`pattern`]) |
//! | base64, standard and URL-safe, at each of the three alignments, wrapped or not | its windows of 8 characters ([`pattern`]) |
//! | JSON strings of any writer, in each other to any depth: `\"`, `\u00e9`, `\\\u00E9`, `\/` | decoding ([`unescape`]) |
//! | percent-encoding in either case, once or several times | decoding ([`unescape`]) |
//! | `+` for a space, as in forms | a pattern ([`pattern`]) |
//!
//! INVARIANT: each byte of each match is replaced, also where matches overlap. A [`Stream`] releases
//! a byte only when no match that it may be part of can follow.

#![allow(rustdoc::private_intra_doc_links, reason = "the table is for readers of the source")]

mod error;
mod masker;
mod pattern;
mod search;
mod stream;
mod unescape;

pub use error::{Error, Result};
pub use masker::Masker;
pub use stream::Stream;
