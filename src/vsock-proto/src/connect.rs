//! Reaching the TCP ports of a guest.

use serde::{Deserialize, Serialize};

use crate::list;

/// Asks for a connection to whatever listens on a port in the guest: on 127.0.0.1, on ::1, or on
/// another of its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connect {
    /// The TCP port.
    pub port: u16,
}

/// Asks which of some ports have listeners, now and whenever that changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WatchPorts {
    /// The TCP ports.
    #[serde(deserialize_with = "list::deserialize")]
    pub ports: Vec<u16>,
}

/// Those of a [`WatchPorts`] that have listeners.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Listening {
    /// The TCP ports, in rising order.
    #[serde(deserialize_with = "list::deserialize")]
    pub ports: Vec<u16>,
}
