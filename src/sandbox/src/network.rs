//! The network of a sandbox: policy, limits, published ports, services.

use std::net::{SocketAddr, SocketAddrV4};
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::{Interception, SINKHOLE};

/// The network of a sandbox. A sandbox without a network card has no `Network`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// Which destinations it may reach.
    pub policy: Policy,
    /// Its bandwidth and connections.
    pub limits: Limits,
    /// Its ports that are published on the host.
    pub publish: Vec<Publish>,
    /// The host's services that it reaches by ports of its gateway, whatever the policy.
    pub services: Vec<Service>,
    /// TCP sockets that it reaches whatever the policy: at private addresses, or at the host's own.
    pub reachable: Vec<SocketAddrV4>,
    /// Its interceptor, if its traffic is intercepted.
    pub intercept: Option<Interception>,
}

/// Which destinations a sandbox may reach.
///
/// Destinations outside the public internet (the host, private and link-local networks, the cloud's metadata
/// service) are refused unless a rule names a network within them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The first matching rule decides.
    pub rules: Vec<Rule>,
    /// The action if no rule matches.
    pub default: Action,
    /// Whether names are resolved.
    pub dns: bool,
    /// The only destinations that the rules and the default decide about. Others are refused, and other names
    /// are not resolved.
    pub only: Option<Destinations>,
}

/// Destinations by address and by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Destinations {
    /// Networks.
    pub nets: Vec<Ipv4Net>,
    /// Host names in lower case; `*.` at the beginning stands for all names below. A host has the addresses that
    /// the sandbox was told when it resolved the name.
    pub hosts: Vec<String>,
}

impl Policy {
    /// The public internet.
    pub fn open() -> Self {
        Self { rules: Vec::new(), default: Action::Allow, dns: true, only: None }
    }

    /// Nothing.
    pub fn none() -> Self {
        Self { rules: Vec::new(), default: Action::Deny, dns: false, only: None }
    }

    /// The policy below an interceptor: TCP to the public internet and to `internal`.
    pub fn intercepted(internal: &[Ipv4Net]) -> Self {
        let tcp =
            |to| Rule { action: Action::Allow, to, protocol: Some(Protocol::Tcp), ports: None };
        let everywhere = [Ipv4Net::default(), Ipv4Net::from(SINKHOLE)];
        let rules = everywhere.iter().chain(internal).copied().map(tcp).collect();
        Self { rules, default: Action::Deny, dns: true, only: None }
    }
}

/// The public internet, and nothing else.
impl Default for Policy {
    fn default() -> Self {
        Self::open()
    }
}

/// A rule for connections to some destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The action.
    pub action: Action,
    /// The destination network.
    pub to: Ipv4Net,
    /// The protocol; `None` matches any.
    pub protocol: Option<Protocol>,
    /// The TCP or UDP ports; `None` matches any.
    pub ports: Option<RangeInclusive<u16>>,
}

/// The action of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It passes.
    Allow,
    /// It is rejected with an ICMP error.
    Deny,
}

/// A protocol in a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP: ping.
    Icmp,
}

/// The network limits of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bits per second from the sandbox; `None` means no limit.
    pub upload: Option<u64>,
    /// Bits per second to the sandbox; `None` means no limit.
    pub download: Option<u64>,
    /// The most open connections.
    pub connections: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { upload: None, download: None, connections: 4096 }
    }
}

/// A service of the host, reached by a port of the sandbox's gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// The gateway's TCP port, the same in every sandbox.
    pub port: u16,
    /// Where the service listens on the host.
    pub host: SocketAddr,
}

/// A sandbox's port that is published on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish {
    /// The host's address and port.
    pub host: SocketAddrV4,
    /// The sandbox's TCP port.
    pub port: u16,
}
