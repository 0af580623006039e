//! Errors of the platform and its client. A rejected request is a [`Refusal`].

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use contract::InvalidRunId;

use crate::{Refusal, RunId};

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a store.
type StoreSource = Box<dyn std::error::Error + Send + Sync>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum Error {
    /// The request was rejected.
    #[error(transparent)]
    Refused(#[from] Refusal),

    // The state folder.
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("no space left in {path}: free some, or run `runner job prune`")]
    Full { path: PathBuf },
    #[error("another process serves {path}")]
    InUse { path: PathBuf },
    #[error(
        "{path} is not a key of 32 bytes: remove it to get a new one, which invalidates URLs and tokens"
    )]
    BadKey { path: PathBuf },
    #[error("line {line} of {path} is not a key of 64 hex digits")]
    BadKeyLine { path: PathBuf, line: usize },
    #[error("{path} has no key: `runner serve --add-key {path}` makes one")]
    NoKey { path: PathBuf },
    #[error("{path} has more than {most} keys: remove those that are not used any more")]
    ManyKeys { path: PathBuf, most: usize },
    #[error("others than its owner may read the keys in {path}: chmod 600 {path}")]
    KeyReadable { path: PathBuf },
    #[error("the key file {path} is for a shared database, but the database is the embedded one")]
    KeyFileOfOne { path: PathBuf },
    #[error(
        "{path} lacks key {key}, which platforms of this database use ({jobs} jobs have secrets sealed with \
         it): give all of them the same key file"
    )]
    ForeignKey { key: String, path: PathBuf, jobs: u64 },
    #[error(
        "the secrets of job {run} are sealed with key {key}, which this platform lacks: give all platforms of \
         the database the same key file"
    )]
    UnknownKey { run: RunId, key: String },
    #[error("{bytes} bytes are too many to be sealed")]
    TooLargeToSeal { bytes: usize },
    #[error("the sealed secrets of job {run} were changed")]
    Forged { run: RunId },
    #[error("the secrets of job {run} are malformed")]
    BadSecrets { run: RunId, source: serde_json::Error },
    #[error("{path} is not the id of a runner: remove it to get a new one")]
    BadRunner { path: PathBuf },
    #[error("cannot parse {path}")]
    BadRecord { path: PathBuf, source: serde_json::Error },
    #[error("cannot get random bytes")]
    Entropy { source: base::random::Error },

    // The database.
    #[error("cannot {operation} in {database}")]
    Database { operation: &'static str, database: String, source: StoreSource },
    #[error("{path} is damaged or is not a platform's database: restore a copy, or move it away")]
    Corrupt { path: PathBuf, source: StoreSource },
    #[error("{path} has schema {found}, but this program supports {known}: use a newer program")]
    NewerDatabase { path: PathBuf, found: i64, known: i64 },
    #[error("cannot {operation} in {database} now")]
    Unavailable { operation: &'static str, database: String, source: StoreSource },
    #[error("the connection string of the database is malformed: {reason}")]
    BadConnectionString { reason: String },
    #[error(
        "this program was built without PostgreSQL: build it with `--features postgres`, which needs libpq"
    )]
    NoPostgres,
    #[error("a record in the database is malformed")]
    BadRow { source: serde_json::Error },

    // The object store.
    #[error("cannot use the object store")]
    Store { source: Box<s3::Error> },
    #[error("cannot read an object of the object store")]
    StoreRead { source: io::Error },
    #[error(
        "`{prefix}` is not a prefix for keys: use names of letters, digits, `-`, `_` and `.`, separated by `/`"
    )]
    BadPrefix { prefix: String },
    #[error(
        "the content that the database names is in {content}, but another store is configured: configure \
         that one"
    )]
    ContentElsewhere { content: &'static str },

    // The server.
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot serve TLS")]
    Tls { source: Box<http_server::Error> },
    #[error("the HTTP server failed")]
    Server { source: http_server::Error },
    #[error("cannot start thread {name}")]
    Thread { name: &'static str, source: io::Error },
    #[error("thread {name} panicked: this is a bug")]
    Panicked { name: &'static str },
    #[error("the platform has stopped")]
    Stopped,

    // The operator's side.
    #[error(
        "no platform listens on {path}: start one with `runner start --local` or `runner serve`"
    )]
    NotServed { path: PathBuf, source: io::Error },
    #[error("cannot reach {url}")]
    Unreachable { url: String, source: io::Error },
    #[error("cannot set up TLS with {url}")]
    TlsHandshake { url: String, source: io::Error },
    #[error("none of the platform's addresses answers: {reasons}")]
    NoneReachable { reasons: String },
    #[error(
        "a platform's URL must be https://HOST or http://HOST, with a port if need be, and nothing else"
    )]
    BadUrl,
    #[error("the token is not a text of one line")]
    BadToken,
    #[error("the certificate authorities cannot be used: {reason}")]
    BadAuthorities { reason: String },
    #[error(
        "{url} is another host, and plain HTTP would show it and everyone on the way the token or content"
    )]
    NotEncrypted { url: String },
    #[error("cannot {operation} the platform")]
    Exchange { operation: &'static str, source: io::Error },
    #[error("the platform's reply is malformed: {reason}")]
    BadReply { reason: String },
    #[error("the platform rejected the request ({status}): {message}")]
    Answered { status: u16, code: String, message: String },
    #[error("the name of {path} is not UTF-8")]
    NotUtf8 { path: PathBuf },
    #[error("{path} has too many folders above it to be packed")]
    TooDeep { path: PathBuf },
    #[error("{path} changed while it was packed")]
    Changed { path: PathBuf },
    #[error("cannot exchange content with the platform's object store")]
    Transfer { source: platform_client::Error },
    #[error("the request to the platform was cancelled")]
    Cut,
    #[error("the job did not end before the deadline")]
    Deadline,
}

impl Error {
    /// Whether the platform took a request and gave no answer, or will give none as it stops.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Exchange { .. } | Self::BadReply { .. } => true,
            Self::Answered { status, .. } => *status == 503,
            _ => false,
        }
    }
}

impl From<InvalidRunId> for Error {
    fn from(error: InvalidRunId) -> Self {
        Refusal::from(error).into()
    }
}

/// Names the operation and the path of a failed file operation.
pub(crate) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::Full { path: path.to_owned() }
        }
        _ => Error::File { operation, path: path.to_owned(), source },
    }
}
