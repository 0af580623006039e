//! What can go wrong with a network.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use nix::errno::Errno;

use crate::netlink::Refusal;

/// See each variant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// This process may not configure networks.
    #[error("configuring networks takes CAP_NET_ADMIN and CAP_SYS_ADMIN: run as root")]
    NotPermitted,
    /// The kernel cannot filter packets.
    #[error("the kernel has no {feature}: {remedy}")]
    NoFeature {
        /// What it lacks.
        feature: &'static str,
        /// How it comes.
        remedy: &'static str,
    },
    /// The host's table does not restrict proxies.
    #[error("the table sandbox_runner does not have the filter for proxies")]
    NoProxyFilter,
    /// The kernel refused a change or a question.
    #[error("cannot {operation} {subject}")]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// On what.
        subject: String,
        /// Why.
        source: Refusal,
    },
    /// A file or device could not be handled.
    #[error("cannot {operation} {path}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A namespace could not be handled.
    #[error("cannot {operation} a network namespace")]
    Namespace {
        /// What was tried.
        operation: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A socket could not be made.
    #[error("cannot open a {kind} socket")]
    Socket {
        /// For what.
        kind: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The text is no range of addresses.
    #[error("{range} is no range for networks: expected an IPv4 network from /8 to /30")]
    BadRange {
        /// The text, or what it says.
        range: String,
    },
    /// Every network of the range is in use.
    #[error("all {size} networks of {range} are in use: choose a larger range")]
    RangeExhausted {
        /// The range.
        range: Ipv4Net,
        /// How many networks it has.
        size: u32,
    },
    /// The host uses the range already.
    #[error("the range {range} overlaps {route}, which this host has on {device}: choose another")]
    RangeOverlaps {
        /// The range.
        range: Ipv4Net,
        /// The host's route.
        route: Ipv4Net,
        /// Where it leads.
        device: String,
    },
    /// The host's networks are kept by other locks.
    #[error(
        "the networks of this host are kept by other locks than {path}: use the runtime directory of \
         the other runners; if there are none, `nft delete table inet sandbox_runner`"
    )]
    OtherLocks {
        /// Our locks.
        path: PathBuf,
    },
    /// A link has the name that is needed.
    #[error("the host has a link {name} that is not ours: rename it, or choose another range")]
    NameTaken {
        /// The link.
        name: String,
    },
    /// No network became ready.
    #[error("none of {size} networks became ready in {waited:.1?}")]
    NoneReady {
        /// How many the pool has.
        size: usize,
        /// For how long it was waited.
        waited: Duration,
    },
    /// The pool is stopped.
    #[error("the pool of networks is stopped")]
    Stopped,
    /// A network is not as it was made.
    #[error("{what}")]
    Damaged {
        /// What is wrong.
        what: String,
    },
    /// A port could not be published, or a service could not be offered.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start the thread `{name}`")]
    Thread {
        /// Its name.
        name: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A thread panicked.
    #[error("the thread `{name}` panicked: this is a bug")]
    Panicked {
        /// Its name.
        name: &'static str,
    },
    /// A thread sleeps on descriptors, and that failed.
    #[error("cannot wait for packets")]
    Poll {
        /// Why.
        source: io::Error,
    },
}

/// The result of this crate's calls.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the operation and its subject when the kernel refuses.
pub(crate) fn kernel(
    operation: &'static str,
    subject: impl Into<String>,
) -> impl FnOnce(Refusal) -> Error {
    let subject = subject.into();
    move |source| match source.errno {
        Errno::EPERM | Errno::EACCES => Error::NotPermitted,
        _ => Error::Kernel { operation, subject, source },
    }
}

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
