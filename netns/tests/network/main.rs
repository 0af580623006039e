//! Networks on a host of namespaces: real links, real rules, real traffic.

#![allow(clippy::unwrap_used, reason = "tests")]

mod host;
mod hostile;
mod intercept;
mod lease;
mod name;
mod own;
mod policy;
mod port;
mod reclaim;
mod scene;
