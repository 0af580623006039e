//! What a sandbox may reach, and what reaches it.

use std::net::{SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::{Interception, REFUSED};

/// The network of a sandbox. One that has none at all has no `Network`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// What it may reach.
    pub policy: Policy,
    /// How much of it.
    pub limits: Limits,
    /// Its ports that the host's users reach.
    pub publish: Vec<Publish>,
    /// What it reaches of the host, whatever the policy: by ports of its gateway.
    pub services: Vec<Service>,
    /// TCP sockets that it reaches whatever the policy: at private addresses, or at the host's own.
    pub reachable: Vec<SocketAddrV4>,
    /// Who stands between it and what its policy lets it reach, if anybody does.
    pub intercept: Option<Interception>,
}

/// Which destinations a sandbox may reach.
///
/// The host, private and link-local networks (the cloud's metadata service among them), and whatever
/// else is not the public internet are out of reach unless a rule names a network within them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Tried in order; the first that fits decides.
    pub rules: Vec<Rule>,
    /// What is done where no rule fits.
    pub default: Action,
    /// Whether names are resolved.
    pub dns: bool,
}

impl Policy {
    /// The public internet.
    pub fn open() -> Self {
        Self { rules: Vec::new(), default: Action::Allow, dns: true }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { rules: Vec::new(), default: Action::Deny, dns: false }
    }

    /// What an interceptor decides about: TCP to the public internet and to these networks.
    pub fn intercepted(internal: &[Ipv4Net]) -> Self {
        let tcp =
            |to| Rule { action: Action::Allow, to, protocol: Some(Protocol::Tcp), ports: None };
        let everywhere = [Ipv4Net::default(), Ipv4Net::from(REFUSED)];
        let rules = everywhere.iter().chain(internal).copied().map(tcp).collect();
        Self { rules, default: Action::Deny, dns: true }
    }
}

/// The public internet, and nothing else.
impl Default for Policy {
    fn default() -> Self {
        Self::open()
    }
}

/// What is done with connections to some destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What.
    pub action: Action,
    /// To which network.
    pub to: Ipv4Net,
    /// By which protocol; any if none.
    pub protocol: Option<Protocol>,
    /// To which ports of TCP or UDP; any if none.
    pub ports: Option<RangeInclusive<u16>>,
}

/// What is done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is refused, and the sandbox is told so.
    Deny,
}

/// A protocol that rules tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP: ping.
    Icmp,
}

/// How much a sandbox may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bits per second from the sandbox; as fast as it goes if none.
    pub upload: Option<u64>,
    /// Bits per second to the sandbox; as fast as it goes if none.
    pub download: Option<u64>,
    /// How many connections may be open at once.
    pub connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { upload: None, download: None, connections: 4096 }
    }
}

/// A service of the host that the sandbox reaches by a port of its gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The gateway's TCP port, in every sandbox the same.
    pub port: u16,
    /// Where the service listens on the host.
    pub host: SocketAddr,
}

/// A port of the sandbox that is reached by one of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// The host's address and port.
    pub host: SocketAddrV4,
    /// The sandbox's TCP port.
    pub port: u16,
}
