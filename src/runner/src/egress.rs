//! What VMs send when it is intercepted: the policy as users describe it, and the proxy.
//!
//! ```toml
//! unknown = "deny"                  # of hosts that nothing below speaks of; or "allow", "ask"
//! allow = ["pypi.org", "*.github.com", "example.com:8443"]
//! deny = ["gist.github.com"]        # before all else
//! addresses = ["203.0.113.7"]       # may be reached without a name
//! internal = ["10.1.0.0/16"]        # names may lead to these networks besides the public internet, and to
//!                                   # an address of the host's own only if it is listed by itself
//!
//! [[api]]                           # a host of which only some requests are allowed
//! base = "https://api.github.com"
//! allow = ["GET /repos/{owner}/{repo}", "GET /search/{rest+}"]
//! deny = ["DELETE /{all*}"]
//! unknown = "ask"                   # of other requests there
//! ```
//!
//! | file | what |
//! |---|---|
//! | this one | the policy's file |
//! | `gate.rs` | the proxies, started when they are needed first |
//! | `held.rs` | secrets that VMs have placeholders of |
//! | `trial.rs` | whether it works on this host |

mod gate;
mod held;
mod trial;

use std::fs;
use std::path::Path;

use intercept::{Api, Firewall, Grants, Permission, Policy, Verdict};
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

pub(crate) use self::gate::Gate;
pub(crate) use self::held::{For, hold, values};
pub(crate) use self::trial::check;
use crate::error::{Result, Usage};

/// What is let pass of a VM, as far as it is known before there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Egress {
    pub(crate) policy: Policy,
}

/// A policy's file, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "deny")]
    unknown: Verdict,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    #[serde(default)]
    addresses: Vec<Net>,
    #[serde(default)]
    internal: Vec<Net>,
    #[serde(default, rename = "api")]
    apis: Vec<ApiEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiEntry {
    base: String,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    #[serde(default)]
    ask: Vec<String>,
    #[serde(default = "deny")]
    unknown: Verdict,
}

/// An address or a network.
#[derive(Deserialize, Clone)]
#[serde(try_from = "String")]
struct Net(Ipv4Net);

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        let net = text.parse().or_else(|_| text.parse::<std::net::Ipv4Addr>().map(Ipv4Net::from));
        net.map(|net: Ipv4Net| Self(net.trunc()))
            .map_err(|_| format!("`{text}`: expected an IPv4 address or network"))
    }
}

fn deny() -> Verdict {
    Verdict::Deny
}

impl Egress {
    /// All of the public internet.
    pub(crate) fn open() -> Self {
        Self { policy: Policy::open() }
    }

    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(crate::error::file("read", path))?;
        let parsed = toml::from_str::<File>(&text);
        let file = parsed.map_err(|source| Usage::Policy { path: path.to_owned(), source })?;
        Ok(Self { policy: file.understand() })
    }

    /// Which packets of a VM go on their way to the proxy.
    pub(crate) fn packets(&self) -> sandbox::Policy {
        let internal = self.policy.internal.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        });
        sandbox::Policy::intercepted(&internal.collect::<Vec<_>>())
    }
}

impl File {
    fn understand(self) -> Policy {
        let nets = |nets: Vec<Net>| nets.into_iter().map(|net| IpNet::V4(net.0)).collect();
        Policy {
            unknown: self.unknown,
            allow: self.allow,
            deny: self.deny,
            addresses: nets(self.addresses),
            internal: nets(self.internal),
            reachable: Vec::new(),
            firewalls: self.apis.into_iter().map(ApiEntry::understand).collect(),
        }
    }
}

impl ApiEntry {
    /// Each list is a permission, of the list's name.
    fn understand(self) -> Firewall {
        let lists = [("allow", self.allow), ("deny", self.deny), ("ask", self.ask)];
        let permissions =
            lists.into_iter().map(|(name, rules)| Permission { name: name.to_owned(), rules });
        let named = |name: &str| vec![name.to_owned()];
        let grants = Grants {
            allow: named("allow"),
            deny: named("deny"),
            ask: named("ask"),
            unknown_policy: self.unknown,
        };
        let name = self.base.clone();
        let api =
            Api { base: self.base, has_credential: false, permissions: permissions.collect() };
        Firewall { name, policy: Some(grants), apis: vec![api] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Policy {
        toml::from_str::<File>(text).unwrap().understand()
    }

    #[test]
    fn what_is_not_said_is_denied() {
        assert_eq!(parse(""), Policy::none());
        let policy = parse("[[api]]\nbase = \"https://a.org\"\nallow = [\"GET /x\"]\n");
        let grants = policy.firewalls[0].policy.as_ref().unwrap();
        assert_eq!(grants.unknown_policy, Verdict::Deny);
        assert_eq!(policy.firewalls[0].apis[0].permissions[0].rules, ["GET /x"]);
    }

    #[test]
    fn packets_to_what_is_internal_pass_if_names_may_lead_there() {
        let policy = parse("internal = [\"10.1.2.3\"]\naddresses = [\"9.9.9.9\"]\n");
        let rules = Egress { policy }.packets().rules;
        assert!(rules.iter().any(|rule| rule.to.to_string() == "10.1.2.3/32"));
        assert!(!rules.iter().any(|rule| rule.to.to_string() == "9.9.9.9/32"));
    }

    #[test]
    fn a_mistake_is_shown_with_its_line() {
        let refused = |text: &str| toml::from_str::<File>(text).err().unwrap().to_string();
        let text = refused("internal = [\"a.org\"]\n");
        assert!(text.contains("line 1") && text.contains("IPv4 address or network"), "{text}");
        assert!(refused("unknown = \"maybe\"\n").contains("`ask`"));
        assert!(refused("alow = []\n").contains("`allow`"));
    }
}
