//! Runs of manifests against real servers on loopback.

#![allow(clippy::unwrap_used)]

mod harness;

mod fault;
mod layout;
mod malicious;
mod program;
mod round_trip;
