//! The tests of tests/platform with PostgreSQL, and those of several platforms on one database.

#![allow(clippy::unwrap_used, reason = "a test that fails should")]

#[path = "../platform/harness.rs"]
mod harness;
mod store;

#[path = "../platform/attempts.rs"]
mod attempts;
#[path = "../platform/checkpoints.rs"]
mod checkpoints;
#[path = "../platform/content.rs"]
mod content;
#[path = "../platform/events.rs"]
mod events;
#[path = "../platform/health.rs"]
mod health;
#[path = "../platform/jobs.rs"]
mod jobs;
#[path = "../platform/operator.rs"]
mod operator;
#[path = "../platform/placement.rs"]
mod placement;
#[path = "../platform/secrets.rs"]
mod secrets;
#[path = "../platform/storages.rs"]
mod storages;
#[path = "../platform/telemetry.rs"]
mod telemetry;
#[path = "../platform/tokens.rs"]
mod tokens;
#[path = "../platform/wire.rs"]
mod wire;

mod failover;
mod replicas;
mod sealed;
