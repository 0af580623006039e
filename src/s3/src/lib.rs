//! A blocking client of one bucket of an S3 object store.
//!
//! | to | use |
//! |---|---|
//! | describe the bucket | [`Config`], [`Credentials`] |
//! | lend a request to others | [`Bucket::presign`], [`Bucket::presign_part`] |
//! | read and write objects | [`Bucket::get`], [`Bucket::put`], [`Bucket::copy`], [`Bucket::list`], … |
//!
//! # Invariants
//!
//! - No error, no `Debug` and no log line has a credential, a signature or a URL.
//! - Each request has limits of time and size: a hostile or broken store cannot hold a thread for ever, nor
//!   fill the memory.
//! - Each call may be repeated: none leaves half an object.

mod bucket;
mod config;
mod error;
mod multipart;
mod transport;
mod xml;

pub use bucket::{Bucket, Listed, Object, Stat};
pub use config::{Config, Credentials, Style};
pub use error::{Error, Result};
pub use multipart::Unfinished;
pub use rusty_s3::Method;
