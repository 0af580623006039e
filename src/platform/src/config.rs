//! The configuration of a platform.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A database.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Database {
    /// SQLite, in the state folder.
    Embedded,
    /// PostgreSQL 14 or later, which several platforms share.
    Postgres(ConnectionString),
}

/// Where archives, manifests and histories are stored.
#[derive(Debug, Clone)]
pub enum Content {
    /// Files in the state folder.
    Files,
    /// Objects of a bucket, which several platforms share.
    Bucket {
        /// The bucket.
        bucket: s3::Config,
        /// What the keys of all objects begin with; empty, or a path like `fleet/`.
        prefix: String,
    },
}

/// A connection string of libpq, perhaps with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectionString(String);

impl ConnectionString {
    /// A URL like `postgresql://user@host/database`, or `key=value` pairs.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Prints no password.
impl fmt::Debug for ConnectionString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConnectionString")
    }
}

/// The configuration of a platform. [`Config::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The state folder; everything is in `control` in it.
    pub state: PathBuf,
    /// Where jobs, events and all else but content are stored.
    pub database: Database,
    /// The keys that the platforms of a shared database have in common: see [`add_key`](crate::add_key).
    /// By default the key of the state folder, which no other platform has.
    pub key_file: Option<PathBuf>,
    /// Where archives, manifests and histories are stored.
    pub content: Content,
    /// The addresses for runners and guests; port 0 selects a free port.
    pub listen: Vec<SocketAddr>,
    /// PEM files with a certificate chain and its private key: the addresses then speak TLS only. They are read again
    /// when they change.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The base of URLs in execution contexts, which guests use: `http://192.168.241.1:8080`. By
    /// default it is the address at which the claim arrived, or the first address for claims in
    /// this process.
    pub guest_url: Option<String>,
    /// The group of jobs whose submission names none. Without one, runners of all groups take them.
    pub group: Option<String>,
    /// For how long a job is offered only to the runner that holds its session's VM, if that takes jobs.
    pub affinity: Duration,
    /// For how long an attempt lives without requests of its guest or heartbeats of its runner. Guests
    /// send a heartbeat each minute.
    pub lease: Duration,
    /// After how many lost attempts a job fails.
    pub attempts: u32,
    /// The timeout of a cancellation, after which the attempt is lost; runners have 90 s for it.
    pub cancel_grace: Duration,
    /// The timeout of a job whose submission has none.
    pub timeout: Duration,
    /// The lifetime of presigned URLs.
    pub url_lifetime: Duration,
    /// The maximum duration of a long poll.
    pub poll_hold: Duration,
    /// The largest archive, in bytes.
    pub largest_archive: u64,
    /// The maximum upload of one attempt with all its retries, in bytes.
    pub largest_upload: u64,
    /// The maximum size of one attempt's events and telemetry together, in bytes.
    pub largest_record: u64,
    /// The timeout of a request's head, and of its body, which gets 1 s more per MiB. Uploads get more.
    pub request_timeout: Duration,
    /// For how long finished jobs are stored.
    pub retention: Duration,
    /// For how long the stop waits for requests under way.
    pub stop_grace: Duration,
}

impl Config {
    /// The defaults for a state folder, without addresses.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            database: Database::Embedded,
            key_file: None,
            content: Content::Files,
            listen: Vec::new(),
            tls: None,
            guest_url: None,
            group: None,
            affinity: Duration::from_secs(2),
            lease: Duration::from_secs(150),
            attempts: 3,
            cancel_grace: Duration::from_secs(120),
            timeout: Duration::from_secs(2 * 60 * 60),
            url_lifetime: Duration::from_secs(60 * 60),
            poll_hold: Duration::from_secs(25),
            largest_archive: 16 << 30,
            largest_upload: 64 << 30,
            largest_record: 1 << 30,
            request_timeout: Duration::from_secs(30),
            retention: Duration::from_secs(30 * 24 * 60 * 60),
            stop_grace: Duration::from_secs(5),
        }
    }
}
