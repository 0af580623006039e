//! The embedded platform: the whole contract of the job platform in one process on one host.
//!
//! [`Platform`] serves jobs, attempts, events, telemetry, storages and checkpoints from SQLite, and
//! archives from files or an object store. A runner in the same process takes jobs from a
//! [`Source`]; other runners and all guests use HTTP; the operator's commands use a [`Client`].
//!
//! ```no_run
//! # fn run(_: platform::Claimed) {}
//! # fn main() -> platform::Result<()> {
//! use std::path::Path;
//! use std::time::{Duration, Instant};
//!
//! let mut config = platform::Config::new(Path::new("/var/lib/sandbox-runner"));
//! config.listen = vec!["127.0.0.1:0".parse().unwrap()];
//! let platform = platform::Platform::start(config)?;
//! let source = platform.source()?;
//! let wanted = platform::Wanted { profiles: vec!["default".into()], ..Default::default() };
//! while let Some(offer) = source.next(&wanted, Instant::now() + Duration::from_secs(60))? {
//!     if let Some(job) = source.claim(offer.run_id)? {
//!         run(job);
//!     }
//! }
//! drop(source);
//! platform.stop()
//! # }
//! ```
//!
//! | to know | read |
//! |---|---|
//! | files on the disk | `folder.rs`, `db/schema.rs` |
//! | objects in a bucket | `store.rs` |
//! | the states of a job | `attempt.rs` |
//! | which runner gets which job | `placement.rs`, `health.rs` |
//! | the routes | `api.rs` |
//! | limits for hostile or slow clients | the crate `http-server` |
//! | secrets and keys | `secret.rs`, `key.rs` |
//! | tokens, and what each may do | `token.rs`, `principal.rs` |

mod api;
mod attempt;
mod backend;
mod blob;
mod bounded;
mod checkpoint;
mod client;
mod clock;
mod config;
mod content_hash;
mod db;
mod error;
mod event;
mod fleet;
mod folder;
mod health;
mod history;
mod job;
mod json;
mod key;
mod mask;
mod notifier;
mod pack;
mod placement;
mod platform;
mod presence;
mod principal;
mod prune;
mod refusal;
mod secret;
mod sign;
mod source;
mod storage;
mod store;
mod telemetry;
mod timer;
mod token;
#[cfg(feature = "postgres")]
mod wakeup;
mod warning;

pub use attempt::{Completed, Wanted};
pub use checkpoint::Checkpoint;
pub use client::{Artifact, Client, Follow, RemotePlatform};
pub use config::{Config, ConnectionString, Content, Database};
pub use content_hash::FileEntry;
pub use contract::{Completion, Offer, RunId};
pub use error::{Error, Result};
pub use event::{Event, Page};
pub use job::{Job, Mount, Status, Submission, Submitted};
pub use key::add_key;
pub use platform::{Platform, prune};
pub use presence::{Runner, Unhealthy};
pub use prune::Pruned;
pub use refusal::Refusal;
pub use s3::{Config as BucketConfig, Credentials as BucketCredentials, Style as BucketStyle};
pub use source::{Claimed, Orphan, Source};
pub use telemetry::Telemetry;
pub use token::{CreatedToken, NewToken, Role, Token};
