//! The policy of a VM in the form that the addon gets. The addon alone interprets it.
//!
//! The names are those of the platform's contract where it has any.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use sandbox::HostSocket;
use serde::{Deserialize, Serialize};

/// Which hosts a VM may reach, and with which requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// The verdict for other hosts.
    pub unknown: Verdict,
    /// Allowed names: `example.com`, `*.example.com`; with a port unless 80 and 443 are meant.
    pub allow: Vec<String>,
    /// Denied names, which take precedence.
    pub deny: Vec<String>,
    /// Addresses that may be reached without a name.
    pub addresses: Vec<IpNet>,
    /// Internal networks that names may resolve to. An address of the host itself is allowed only by a /32
    /// network.
    pub internal: Vec<IpNet>,
    /// Private sockets, or sockets of the host, that may be reached by their names.
    pub reachable: Vec<Reachable>,
    /// APIs, with rules for requests.
    pub firewalls: Vec<Firewall>,
}

/// A socket that may be reached by a name, at these addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reachable {
    /// The name, or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The addresses that the name may resolve to.
    pub addresses: Vec<Ipv4Addr>,
}

/// A verdict on a request or a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Pass.
    Allow,
    /// Reject.
    Deny,
    /// Reject, and say that an approval is required.
    Ask,
}

/// A group of APIs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Firewall {
    /// The name, for messages.
    pub name: String,
    /// The granted permissions; `None` grants all requests.
    pub policy: Option<Grants>,
    /// The APIs of the group.
    pub apis: Vec<Api>,
}

/// Granted permissions of a firewall, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grants {
    /// Granted permissions.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Denied permissions.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Permissions that require an approval.
    #[serde(default)]
    pub ask: Vec<String>,
    /// The verdict for requests that no permission covers.
    pub unknown_policy: Verdict,
}

/// An API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    /// The base of its URLs.
    pub base: String,
    /// Whether its requests get a credential of [`CredentialProvider`](crate::CredentialProvider).
    #[serde(default)]
    pub has_credential: bool,
    /// The permissions that cover its requests.
    #[serde(default)]
    pub permissions: Vec<Permission>,
}

/// A group of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// The name, by which [`Grants`] refer to it.
    pub name: String,
    /// `METHOD /path/{parameter}`.
    pub rules: Vec<String>,
}

/// A secret of which a VM has only a placeholder.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// The name, for messages.
    pub name: String,
    /// The placeholder that the VM has.
    pub placeholder: String,
    /// The value that replaces the placeholder in HTTPS requests to `hosts`.
    pub value: String,
    /// Hosts in the form of [`Policy::allow`], which this also allows.
    pub hosts: Vec<String>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, hosts, .. } = self;
        formatter
            .debug_struct("Secret")
            .field("name", name)
            .field("hosts", hosts)
            .finish_non_exhaustive()
    }
}

impl Policy {
    /// Allows the public internet.
    pub fn open() -> Self {
        let all = [IpNet::V4(Ipv4Net::default())];
        Self { unknown: Verdict::Allow, addresses: all.to_vec(), ..Self::none() }
    }

    /// Allows nothing.
    pub fn none() -> Self {
        Self {
            unknown: Verdict::Deny,
            allow: Vec::new(),
            deny: Vec::new(),
            addresses: Vec::new(),
            internal: Vec::new(),
            reachable: Vec::new(),
            firewalls: Vec::new(),
        }
    }

    /// The host's own sockets that the policy opens.
    pub(crate) fn host_sockets(&self) -> impl Iterator<Item = HostSocket> {
        let internal = self.internal.iter().filter_map(|net| match net {
            IpNet::V4(net) if net.prefix_len() == 32 => {
                Some(HostSocket { address: net.addr(), port: None })
            }
            _ => None,
        });
        let reachable = self.reachable.iter().flat_map(|one| {
            let at = |address: &Ipv4Addr| HostSocket { address: *address, port: Some(one.port) };
            one.addresses.iter().map(at)
        });
        internal.chain(reachable)
    }
}
