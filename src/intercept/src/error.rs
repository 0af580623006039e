//! What can go wrong with interception.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// See each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be handled.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The authority could not be made.
    #[error("cannot make a certificate authority")]
    Certify {
        /// Why.
        source: rcgen::Error,
    },
    /// The authority's file is not what was written.
    #[error("{path} does not hold a key and a certificate: remove it, and a new one is made")]
    BadAuthority {
        /// The file.
        path: PathBuf,
    },
    /// There is no mitmproxy.
    #[error("mitmdump is not found in {places}: run scripts/setup, or set RUNNER_MITMDUMP")]
    NoProgram {
        /// Where it was looked for.
        places: String,
    },
    /// The kernel's filter for the proxy could not be set.
    #[error("cannot keep the proxy from the host's own addresses")]
    HostFilter {
        /// Why.
        source: sandbox::Cause,
    },
    /// The proxy could not be started.
    #[error("cannot start the proxy")]
    Spawn {
        /// Why.
        source: process::Error,
    },
    /// A socket could not be made.
    #[error("cannot {operation} for the proxy")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The proxy ended, or did not become ready.
    #[error("the proxy {problem}{words}")]
    Down {
        /// What it did.
        problem: String,
        /// The last of what it said, if anything.
        words: String,
    },
    /// The proxy refused what it was told of a VM.
    #[error("the proxy does not take the policy of {address}: {reason}")]
    Refused {
        /// The VM's address.
        address: Ipv4Addr,
        /// Why, in its words.
        reason: String,
    },
    /// The proxy did not answer in time.
    #[error("the proxy has not admitted {address} in {waited:.1?}")]
    Late {
        /// The VM's address.
        address: Ipv4Addr,
        /// How long it was waited.
        waited: Duration,
    },
    /// Another VM has the address.
    #[error("{address} is admitted already")]
    Taken {
        /// The address.
        address: Ipv4Addr,
    },
    /// Nothing may be put on record, as it could not be masked.
    #[error("the network cannot be recorded")]
    Secrets {
        /// Why.
        source: mask::Error,
    },
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`")]
    Thread {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// The proxy's thread is gone.
    #[error("the proxy is stopped")]
    Stopped,
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the operation and the path of a failed file operation.
pub(crate) fn file(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { operation, path, source }
}

/// An error with its causes, in one line, for what is logged.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
