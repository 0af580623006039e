//! Errors of networks.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::errno::Errno;

use crate::netlink::NetlinkError;

/// A failed operation on a network or on the host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages name the fields")]
pub enum Error {
    /// This process may not configure networks.
    #[error("configuring networks takes CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root")]
    NotPermitted,
    /// The kernel lacks a feature.
    #[error("the kernel has no {feature}: {remedy}")]
    NoFeature { feature: &'static str, remedy: &'static str },
    /// The host's table does not restrict proxies.
    #[error("the table sandbox_runner does not have the filter for proxies")]
    NoProxyFilter,
    /// The kernel rejected a request.
    #[error("cannot {operation} {subject}")]
    Kernel { operation: &'static str, subject: String, source: NetlinkError },
    /// An operation on a file or device failed.
    #[error("cannot {operation} {path}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    /// An operation on a namespace failed.
    #[error("cannot {operation} a network namespace")]
    Namespace { operation: &'static str, source: io::Error },
    /// A socket could not be made.
    #[error("cannot open a {kind} socket")]
    Socket { kind: &'static str, source: io::Error },
    /// The text is not a valid range.
    #[error("{range} is not a range for networks: expected an IPv4 network from /8 to /30")]
    BadRange { range: String },
    /// Every network of the range is in use.
    #[error("all {size} networks of {range} are in use: choose a larger range")]
    RangeExhausted { range: Ipv4Net, size: u32 },
    /// The host has a route into the range.
    #[error("the range {range} overlaps {route}, which this host has on {device}: choose another")]
    RangeOverlaps { range: Ipv4Net, route: Ipv4Net, device: String },
    /// The host's networks use another lock file.
    #[error(
        "the networks of this host use another lock file than {path}: use the runtime directory of \
         the other runners; if there are none, run `nft delete table inet sandbox_runner`"
    )]
    OtherLockFile { path: PathBuf },
    /// Another link has the name of the network.
    #[error("the host has a link {name} that is not ours: rename it, or choose another range")]
    NameTaken { name: String },
    /// No network became ready before the deadline.
    #[error("none of {size} networks became ready in {waited:.1?}")]
    NoneReady { size: usize, waited: Duration },
    /// The pool has stopped.
    #[error("the pool of networks has stopped")]
    Stopped,
    /// A network was changed after it was made.
    #[error("{what}")]
    Damaged { what: String },
    /// A socket could not listen.
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    /// The target did not accept a connection.
    #[error("cannot connect to {address}")]
    Connect { address: SocketAddr, source: io::Error },
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`")]
    Thread { name: &'static str, source: io::Error },
    /// A thread panicked.
    #[error("the thread `{name}` panicked: this is a bug")]
    Panicked { name: &'static str },
    /// The forwarder could not create its poll or waker.
    #[error("cannot set up the forwarder's poll")]
    Poll { source: io::Error },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// The error of a rejected request, with the operation and its subject.
pub(crate) fn kernel(
    operation: &'static str,
    subject: impl Into<String>,
) -> impl FnOnce(NetlinkError) -> Error {
    let subject = subject.into();
    move |source| match source.errno {
        Errno::EPERM | Errno::EACCES => Error::NotPermitted,
        _ => Error::Kernel { operation, subject, source },
    }
}

/// The error of a file operation, with the operation and the path.
pub(crate) fn file(
    operation: &'static str,
    path: impl Into<PathBuf>,
) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| Error::File { operation, path, source }
}
