//! The runner in real VMs, as a user runs it. Needs root, QEMU and the images `default`, `base`, `claude`
//! and `containers`; `scripts/test` brings them. Each test has a state folder of its own that shares the images.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod fault;
mod host;
mod http;
mod internet;
mod model;
mod runner;

mod agent;
mod background;
mod claude;
mod claude_job;
mod confined;
mod containers;
mod crash_point;
mod detached;
mod faults;
mod files;
mod host_ca;
mod intercept;
mod job;
mod mcp;
mod network;
mod pool;
mod reclaim;
mod remote_platform;
mod restores;
mod run;
mod sandbox_clients;
mod sandboxes;
mod sdk;
mod snapshot;
mod ssh;
