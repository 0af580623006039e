//! The built program against a platform on loopback, with the mock and with CLIs of the tests' own.

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
