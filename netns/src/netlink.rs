//! Netlink: how the kernel is asked about links, addresses, routes, rules and connections.
//!
//! Written by hand because one small encoder serves four families of messages (routing, nf_tables,
//! connection tracking, traffic control), of which only the first has a well-kept typed crate.
//!
//! | file | what |
//! |---|---|
//! | `attribute.rs` | the attributes that all messages consist of, written and read |
//! | `message.rs` | one request |
//! | `socket.rs` | a socket of one network namespace, wherever it is used from |

mod attribute;
mod message;
mod socket;

pub(crate) use attribute::{Attributes, Reader};
pub(crate) use message::Message;
pub use socket::NetlinkError;
pub(crate) use socket::{Reply, Socket};
