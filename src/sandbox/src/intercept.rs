//! Who stands between a sandbox and the internet, and what it has to know of it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use crate::Cause;

/// Where names lead that a sandbox may not ask for: its interceptor tells why.
pub const REFUSED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The user IDs of interceptors' processes are those with these bits under [`PROXY_UID_MASK`].
pub const PROXY_UID: u32 = 0x7000_0000;
/// See [`PROXY_UID`].
pub const PROXY_UID_MASK: u32 = 0xf800_0000;

/// Takes all that one sandbox sends: each sandbox has its own, with its policy.
pub trait Interceptor: Send + Sync {
    /// Lets an address in, until the pass is dropped. Nothing may come from the address before.
    fn admit(&self, address: Ipv4Addr, deadline: Instant) -> Result<Box<dyn Pass>, Cause>;

    /// The certificate of the authority that the sandbox has to trust, as PEM.
    fn certificate(&self) -> &str;
}

/// The right of an address to send. Dropping it ends all of its connections.
pub trait Pass: Send + Sync {
    /// The host's port where its TCP is to arrive.
    fn port(&self) -> u16;

    /// Who is told of what does not arrive there.
    fn watch(&self) -> Arc<dyn Watch>;
}

/// Decides about names, and hears of packets. Must not block.
pub trait Watch: Send + Sync {
    /// Whether a question for a name is to be answered.
    fn may_ask(&self, name: &str) -> bool;

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

/// An [`Interceptor`] that several hold.
#[derive(Clone)]
pub struct Interception(Arc<dyn Interceptor>);

impl Interception {
    /// This one.
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

/// It knows secrets.
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
