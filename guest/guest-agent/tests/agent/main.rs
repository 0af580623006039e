//! Tests of the built program against a fake platform on loopback, with the mock or with bash scripts as CLI.

#![allow(clippy::unwrap_used)]

mod harness;

mod artifact;
mod checkpoint;
mod codex;
mod environment;
mod event;
mod limit;
mod local;
mod mask;
mod signal;
mod telemetry;
