//! Sandboxes for agents: a server of the Model Context Protocol. It knows sandboxes by `sandbox-api` only.
//!
//! ```text
//!   stdio.rs: lines ─┐
//!                    ├─▶ Server::receive ─▶ an answer now, or a call ─▶ tool.rs: one file per tool
//!   http.rs: POST  ──┘     session.rs: calls that run, the version
//! ```
//!
//! | to know | read |
//! |---|---|
//! | JSON-RPC messages | `message.rs` |
//! | versions, what the server says of itself | `protocol.rs` |
//! | which method does what | `server.rs` |
//! | cancellation, and the sandbox of calls that name none | `session.rs`, `implicit.rs` |
//! | tools, and how their arguments are checked | `tool.rs`, `argument.rs` |
//! | what happens to much output | `capture.rs` |
//! | how a port in a sandbox is reached | `port.rs` |

mod argument;
mod call;
mod capture;
mod context;
mod failure;
mod http;
mod implicit;
mod message;
mod options;
mod port;
mod prompt;
mod protocol;
mod resource;
mod server;
mod session;
mod stdio;
mod text;
mod tool;
mod uri;

#[cfg(test)]
mod testing;

pub use http::{Hosts, Http};
pub use options::Options;
pub use server::Server;
pub use stdio::serve;
