//! What a VM may do, as it is said to the addon, which alone knows what it means.
//!
//! The names are those of the platform's contract where it has any.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use sandbox::HostSocket;
use serde::{Deserialize, Serialize};

/// Who may be reached, and by which requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Of hosts that nothing else speaks of.
    pub unknown: Verdict,
    /// Names that are allowed: `example.com`, `*.example.com`; with a port if not the web's.
    pub allow: Vec<String>,
    /// Names that are not, before all else.
    pub deny: Vec<String>,
    /// Addresses that may be reached without a name.
    pub addresses: Vec<IpNet>,
    /// Networks, other than the public internet, that names may lead to. An address of the host's own is
    /// meant only where it is named by itself.
    pub internal: Vec<IpNet>,
    /// Sockets that may be reached by their names though they are private or the host's own.
    pub reachable: Vec<Reachable>,
    /// APIs, and what may be done with each.
    pub firewalls: Vec<Firewall>,
}

/// A socket that may be reached by a name, at these addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reachable {
    /// The name, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// Where the name may lead.
    pub addresses: Vec<Ipv4Addr>,
}

/// What is done with something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It is refused.
    Deny,
    /// Somebody would have to approve it: it is refused, and the refusal says so.
    Ask,
}

/// APIs that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Firewall {
    /// Its name, for people.
    pub name: String,
    /// What may be done with it; all of it if none.
    pub policy: Option<Grants>,
    /// Its APIs.
    pub apis: Vec<Api>,
}

/// What may be done with a firewall, by the names of permissions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grants {
    /// Permissions that are given.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Permissions that are refused.
    #[serde(default)]
    pub deny: Vec<String>,
    /// Permissions that would have to be approved.
    #[serde(default)]
    pub ask: Vec<String>,
    /// Of requests that no permission covers.
    pub unknown_policy: Verdict,
}

/// One API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    /// What its URLs begin with.
    pub base: String,
    /// Whether something is added to its requests, by [`Credentials`](crate::Credentials).
    #[serde(default)]
    pub has_credential: bool,
    /// Its permissions.
    #[serde(default)]
    pub permissions: Vec<Permission>,
}

/// Requests that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// By which it is given and refused.
    pub name: String,
    /// `METHOD /path/{parameter}`.
    pub rules: Vec<String>,
}

/// A value that a VM has only a placeholder of.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// Its name, for people.
    pub name: String,
    /// What the VM has.
    pub placeholder: String,
    /// What is sent instead, over HTTPS, to these hosts alone.
    pub value: String,
    /// Named as in [`Policy::allow`], which they are allowed by, too.
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
    /// The public internet.
    pub fn open() -> Self {
        let all = [IpNet::V4(Ipv4Net::default())];
        Self { unknown: Verdict::Allow, addresses: all.to_vec(), ..Self::none() }
    }

    /// Nothing.
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

    /// The sockets that it opens even if they are the host's own.
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
