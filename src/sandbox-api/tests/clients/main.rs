//! Clients that vanish and clients in great number, over HTTP against scripted sandboxes: what they leave in the
//! server's process. The tests take turns, since each looks at all threads and descriptors.

#![allow(clippy::unwrap_used, reason = "tests")]

mod churn;
mod harness;
mod load;
mod vanish;
