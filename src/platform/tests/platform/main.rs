//! The platform as runners, guests and the operator see it: over real HTTP on loopback, over
//! its Unix socket, and through a crash.

#![allow(clippy::unwrap_used, reason = "a test that fails should")]

mod harness;

mod attempts;
mod checkpoints;
mod events;
mod folder;
mod jobs;
mod operator;
mod secrets;
mod storages;
mod telemetry;
mod wire;
