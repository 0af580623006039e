//! Who stands between a sandbox and the internet, and what it has to know of it.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Instant;

use crate::{Cause, Protocol};

/// Where names lead that a sandbox may not ask for: its interceptor tells why.
pub const REFUSED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

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

    /// A packet that went nowhere.
    fn dropped(&self, protocol: Option<Protocol>, to: SocketAddrV4);
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
