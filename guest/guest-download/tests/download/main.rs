//! Manifests carried out against real servers on loopback.

#![allow(clippy::unwrap_used)]

mod harness;

mod evil;
mod fault;
mod layout;
mod program;
mod round_trip;
