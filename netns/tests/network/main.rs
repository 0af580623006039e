//! Networks on a host of namespaces, with real links, rules and traffic.

#![allow(clippy::unwrap_used, reason = "tests")]

mod dns;
mod fixture;
mod host;
mod host_address;
mod hostile;
mod intercept;
mod lease;
mod policy;
mod port;
mod reclaim;
