//! The interface of an interceptor: a proxy between a sandbox and the internet.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use crate::Cause;

/// The DNS sinkhole: the address of names that a sandbox may not resolve. Its interceptor answers requests
/// there with the reason.
pub const SINKHOLE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The user IDs of interceptors' processes are those with these bits under [`PROXY_UID_MASK`].
pub const PROXY_UID: u32 = 0x7000_0000;
/// The mask of [`PROXY_UID`].
pub const PROXY_UID_MASK: u32 = 0xf800_0000;

/// Intercepts the traffic of one sandbox. Each sandbox has its own, with its policy.
pub trait Interceptor: Send + Sync {
    /// Registers an address until the registration is dropped. The address must not send before.
    fn register(
        &self,
        address: Ipv4Addr,
        deadline: Instant,
    ) -> Result<Box<dyn Registration>, Cause>;

    /// The CA certificate that the sandbox must trust, as PEM.
    fn certificate(&self) -> &str;
}

/// The registration of an address. Dropping it closes all of its connections.
pub trait Registration: Send + Sync {
    /// The host's port to which its TCP connections are redirected.
    fn port(&self) -> u16;

    /// The observer of traffic that is not redirected.
    fn observer(&self) -> Arc<dyn EgressObserver>;
}

/// Decides which names may be resolved, and observes dropped packets. Must not block.
pub trait EgressObserver: Send + Sync {
    /// Whether a name may be resolved.
    fn may_resolve(&self, name: &str) -> bool;

    /// A packet was dropped.
    fn dropped(&self, packet: Dropped);
}

/// A dropped IP packet to a unicast address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dropped {
    /// The IP protocol number.
    pub protocol: u8,
    /// The destination address.
    pub address: IpAddr,
    /// The destination port; 0 if the protocol has no ports.
    pub port: u16,
}

/// The kernel's filter between interceptors' processes and the host's own addresses.
///
/// Without an exception it refuses every connection to an address of the host, whether or not the
/// interceptor would make one.
pub trait HostFilter: Send + Sync {
    /// Makes these sockets the only exceptions for processes of this user ID.
    fn permit(&self, uid: u32, sockets: &BTreeSet<HostSocket>) -> Result<(), Cause>;
}

/// A TCP socket at an address of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostSocket {
    /// The host's address.
    pub address: Ipv4Addr,
    /// The port; every port if none.
    pub port: Option<u16>,
}

/// A shared [`Interceptor`].
#[derive(Clone)]
pub struct Interception(Arc<dyn Interceptor>);

impl Interception {
    /// Shares an interceptor.
    pub fn new(interceptor: Arc<dyn Interceptor>) -> Self {
        Self(interceptor)
    }
}

impl std::ops::Deref for Interception {
    type Target = dyn Interceptor;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// Without details: an interceptor holds secrets.
impl fmt::Debug for Interception {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Interception")
    }
}

impl PartialEq for Interception {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Interception {}
