//! Errors of interception.

use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// A failed operation on the proxy or its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// An operation on a file or folder failed.
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// The authority could not be made.
    #[error("cannot make a certificate authority")]
    Certify { source: rcgen::Error },
    /// The authority's file lacks the key or the certificate.
    #[error("{path} does not contain a key and a certificate: remove it, and a new one is made")]
    BadAuthority { path: PathBuf },
    /// mitmproxy is not installed.
    #[error("cannot find mitmdump in {places}: run scripts/setup, or set RUNNER_MITMDUMP")]
    NoProgram { places: String },
    /// The kernel's filter for the proxy could not be set.
    #[error("cannot keep the proxy from the host's own addresses")]
    HostFilter { source: sandbox::Cause },
    /// The proxy could not be started.
    #[error("cannot start the proxy")]
    Spawn { source: process::Error },
    /// An operation on a socket or pipe failed.
    #[error("cannot {operation} for the proxy")]
    Socket { operation: &'static str, source: io::Error },
    /// The proxy exited, or did not become ready.
    #[error("the proxy {problem}{output}")]
    ProxyFailed { problem: String, output: String },
    /// The proxy rejected the policy of a VM.
    #[error("the proxy rejects the policy of {address}: {reason}")]
    PolicyRejected { address: Ipv4Addr, reason: String },
    /// The proxy did not register a VM in time.
    #[error("the proxy has not registered {address} in {waited:.1?}")]
    RegistrationTimeout { address: Ipv4Addr, waited: Duration },
    /// Another VM is registered with the address.
    #[error("{address} is registered already")]
    AlreadyRegistered { address: Ipv4Addr },
    /// The masker of the network log could not be made.
    #[error("cannot mask the secrets of the network log")]
    Secrets { source: mask::Error },
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`")]
    Thread { name: String, source: io::Error },
    /// The proxy's thread has ended.
    #[error("the proxy has stopped")]
    Stopped,
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// The error of a file operation, with the operation and the path.
pub(crate) fn file(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { operation, path, source }
}
