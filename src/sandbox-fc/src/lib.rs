//! Sandboxes as Firecracker microVMs: production, where KVM works.

pub mod api;
mod error;

pub use error::{Error, Result};
