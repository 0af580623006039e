//! Builds and stores guest images.
//!
//! An image is a kernel, an initramfs with guest-init and the modules that it needs
//! first, a read-only root file system (squashfs) and a template of the writable
//! disk above it (ext4). [`build`] makes one from a [`Source`]; a [`Store`] keeps
//! them by name. Everything lies below one state directory:
//!
//! ```text
//! images/    finished images            (store)
//! cache/     parts by their inputs      (cache)
//! staging/   the build that is running  (stage)
//! ```
//!
//! Sources are untrusted: their files go from the archive into an index in memory
//! with one file of contents beside it (tree), and from there into `mksquashfs`.
//! Nothing is unpacked on the host, so no path or link in a source can reach it.

mod account;
mod arch;
mod build;
mod cache;
mod compress;
mod context;
mod cpio;
mod digest;
mod disk;
mod error;
mod initramfs;
mod kernel;
mod layer;
mod members;
mod oci;
mod program;
mod progress;
mod request;
mod setup;
mod source;
mod squashfs;
mod stage;
mod store;
#[cfg(test)]
mod testing;
mod tool;
mod tree;

pub use arch::Arch;
pub use build::build;
pub use compress::{Format, reader as decompress};
pub use disk::DISK_SIZES_MIB;
pub use error::{Error, PayloadFault, Result};
pub use progress::{Progress, Step};
pub use request::BuildRequest;
pub use source::{Recipe, Source};
pub use store::{Defaults, Description, Image, Store};
pub use tool::{MissingTool, missing_tools};
