//! Errors of the service.

use std::io;
use std::path::PathBuf;

use sandbox::Cause;

use crate::cancellation::CancelReason;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;

/// The operation that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what happened")]
pub enum Error {
    #[error(transparent)]
    Usage(#[from] Usage),
    #[error(transparent)]
    Egress(#[from] egress::Error),
    #[error("another `runner start` serves {path}")]
    Served { path: PathBuf },

    // The platform.
    #[error("[api] sets bypass_env = \"{name}\", but that variable is not set")]
    NoBypass { name: String },
    #[error("the token file {path} is empty")]
    EmptyToken { path: PathBuf },
    #[error("cannot reach the platform at {url}")]
    PlatformUnreachable { url: String, source: platform_client::Error },
    #[error("TLS with the platform at {url} failed")]
    PlatformTls { url: String, source: platform_client::Error },
    #[error("the platform at {url} rejected the token in {path}")]
    PlatformRefuses { url: String, path: PathBuf, source: platform_client::Error },
    #[error("the platform at {url} failed")]
    PlatformFails { url: String, source: platform_client::Error },
    #[error(
        "VMs cannot reach {url}, a loopback address of the host: let the platform listen at another address, and set that as [api] url"
    )]
    PlatformOnLoopback { url: String },
    #[error("cannot subscribe to jobs")]
    Push { source: ably_subscriber::Error },
    #[error("the request to the platform failed")]
    Api {
        #[from]
        source: platform_client::Error,
    },
    #[cfg(feature = "platform")]
    #[error("the embedded platform failed")]
    Platform {
        #[from]
        source: platform::Error,
    },

    // A job.
    #[error("the platform sent a malformed job context")]
    Context { source: serde_json::Error },
    #[error("the job's {what} is malformed")]
    NetworkContext { what: &'static str },
    #[error("the job restricts its secrets to hosts, which needs an intercepted network")]
    SecretsNotIntercepted,
    #[error("the session's history {problem}")]
    History { problem: &'static str },
    #[error("cannot read the session's history")]
    ReadHistory { source: io::Error },
    #[error("a job folder cannot be at {path}: {reason}")]
    Mount { path: PathBuf, reason: &'static str },
    #[error("cannot set up the job's storages: {said}")]
    Storages { said: String },
    #[error("the agent exited with code {code} and reported no outcome: {said}")]
    NoOutcome { code: u8, said: String },
    #[error("{0}")]
    Ended(CancelReason),
    #[error("a thread of the runner panicked: this is a bug")]
    Panicked,

    // VMs and images.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    #[error(transparent)]
    Image(Cause),

    // This host.
    #[error("{path} is damaged")]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot start the thread `{name}`")]
    Thread { name: &'static str, source: io::Error },
    #[error("cannot encode JSON")]
    Json { source: serde_json::Error },
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum Usage {
    #[error("{path} is not a valid configuration")]
    Config { path: PathBuf, source: toml::de::Error },
    #[error("{key}: expected {expected}")]
    ConfigValue { key: String, expected: &'static str },
    #[error(
        "profile `{name}` needs {needed}, and the budget of all jobs is {budget} (without warm VMs)"
    )]
    ProfileTooLarge { name: String, needed: String, budget: String },
    #[error("profile `{name}` has no network: its jobs cannot reach the platform")]
    ProfileWithoutNetwork { name: String },
    #[error("no platform to take jobs from: set [api] in runner.toml, or use --local")]
    NoPlatform,
}

impl Error {
    /// Whether the configuration is wrong.
    pub fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_) | Self::Egress(egress::Error::Usage(_)))
    }

    /// The error and all its causes on one line.
    pub fn chain(&self) -> String {
        base::error::chain(self)
    }

    /// The error of the HTTP client, if a request to the platform failed.
    pub(crate) fn of_api(&self) -> Option<&platform_client::Error> {
        match self {
            Self::Api { source } => Some(source),
            _ => None,
        }
    }
}

/// Makes an [`Error::File`] of the cause of a failed file operation.
pub(crate) fn file<E: Into<io::Error>>(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(E) -> Error {
    let path = path.into();
    move |source| Error::File { operation, path, source: source.into() }
}
