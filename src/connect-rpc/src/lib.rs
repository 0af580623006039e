//! The [Connect protocol](https://connectrpc.com/docs/protocol) with JSON, without its transport: what stands in
//! requests and replies, not how they travel.
//!
//! A unary call has one JSON document each way. A streaming call has envelopes:
//!
//! ```text
//! ┌───────┬─────────────┬──────────────┐
//! │ flags │ length (BE) │ JSON         │   flags: 1 compressed (refused), 2 the end of a reply's stream
//! │ u8    │ u32         │ length bytes │
//! └───────┴─────────────┴──────────────┘
//! ```
//!
//! The status of a streaming reply is always 200: its last envelope says whether the call succeeded.

mod code;
mod envelope;
mod error;

pub use code::Code;
pub use envelope::{EnvelopeReader, end, message};
pub use error::{Error, ReadError};

/// The media type of unary requests and replies.
pub const UNARY: &str = "application/json";

/// The media type of streaming requests and replies.
pub const STREAMING: &str = "application/connect+json";
