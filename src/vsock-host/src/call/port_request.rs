//! Requests to the reactor that concern ports of a guest.

use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use mio::Token;

use crate::Loss;
use crate::error::Refusal;

/// A request to forward a local socket to a port of a guest.
pub(crate) struct ForwardRequest {
    pub(crate) to: Destination,
    pub(crate) port: u16,
    pub(crate) socket: OwnedFd,
    /// Called once, when the connection is open or has failed.
    pub(crate) opened: Opened,
    /// Dropped when the connection ends.
    pub(crate) kept: Box<dyn Any + Send>,
}

/// The guest that a connection is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Destination {
    Guest(Token),
    /// The guest that is connected to this listener.
    Listener(Token),
}

pub(crate) type Opened = Box<dyn FnOnce(Result<(), Failed>) + Send>;

/// The reason that a connection did not open.
#[derive(Debug)]
pub(crate) enum Failed {
    Refused(Refusal),
    Lost(Arc<Loss>),
}

impl fmt::Debug for ForwardRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardRequest").field("to", &self.to).field("port", &self.port).finish()
    }
}

/// The callback for the ports that have listeners. The reactor calls it, so it must not wait.
pub(crate) type Notify = Box<dyn Fn(&[u16]) + Send>;

/// The ports that the guest of a listener must watch.
pub(crate) struct PortWatch {
    pub(crate) ports: Vec<u16>,
    pub(crate) notify: Notify,
}

impl fmt::Debug for PortWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortWatch").field("ports", &self.ports).finish_non_exhaustive()
    }
}
