//! Interception policies in TOML files.
//!
//! ```toml
//! unknown = "deny"                  # for hosts that are not listed below; or "allow", "ask"
//! allow = ["pypi.org", "*.github.com", "example.com:8443"]
//! deny = ["gist.github.com"]        # takes precedence
//! addresses = ["203.0.113.7"]       # allowed without a host name
//! internal = ["10.1.0.0/16"]        # host names may resolve to these networks, besides the public internet;
//!                                   # the host's own addresses must be listed individually
//!
//! [[api]]                           # a host with rules for single requests
//! base = "https://api.github.com"
//! allow = ["GET /repos/{owner}/{repo}", "GET /search/{rest+}"]
//! deny = ["DELETE /{all*}"]
//! unknown = "ask"                   # for other requests to this host
//! ```

use std::fs;
use std::path::Path;

use intercept::{Api, Firewall, Grants, Permission, Policy, Verdict};
use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;

use crate::error::{Error, Result, Usage};

/// The interception policy of a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterceptionPolicy {
    /// Which requests the proxy forwards.
    pub requests: Policy,
}

/// The format of a policy file.
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

impl InterceptionPolicy {
    /// Allows all of the public internet.
    pub fn open() -> Self {
        Self { requests: Policy::open() }
    }

    /// Reads a policy file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let parsed = toml::from_str::<File>(&text);
        let file = parsed.map_err(|source| Usage::Policy { path: path.to_owned(), source })?;
        Ok(Self { requests: file.into_policy() })
    }

    /// The packet policy of an intercepted VM.
    pub fn packets(&self) -> sandbox::Policy {
        let internal = self.requests.internal.iter().filter_map(|net| match net {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        });
        sandbox::Policy::intercepted(&internal.collect::<Vec<_>>())
    }
}

impl File {
    fn into_policy(self) -> Policy {
        let nets = |nets: Vec<Net>| nets.into_iter().map(|net| IpNet::V4(net.0)).collect();
        Policy {
            unknown: self.unknown,
            allow: self.allow,
            deny: self.deny,
            addresses: nets(self.addresses),
            internal: nets(self.internal),
            reachable: Vec::new(),
            firewalls: self.apis.into_iter().map(ApiEntry::into_firewall).collect(),
        }
    }
}

impl ApiEntry {
    /// Converts each list to a permission of the same name.
    fn into_firewall(self) -> Firewall {
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
        toml::from_str::<File>(text).unwrap().into_policy()
    }

    #[test]
    fn a_host_that_is_not_listed_is_denied() {
        assert_eq!(parse(""), Policy::none());
        let policy = parse("[[api]]\nbase = \"https://a.org\"\nallow = [\"GET /x\"]\n");
        let grants = policy.firewalls[0].policy.as_ref().unwrap();
        assert_eq!(grants.unknown_policy, Verdict::Deny);
        assert_eq!(policy.firewalls[0].apis[0].permissions[0].rules, ["GET /x"]);
    }

    #[test]
    fn packets_to_internal_networks_are_allowed() {
        let policy = parse("internal = [\"10.1.2.3\"]\naddresses = [\"9.9.9.9\"]\n");
        let rules = InterceptionPolicy { requests: policy }.packets().rules;
        assert!(rules.iter().any(|rule| rule.to.to_string() == "10.1.2.3/32"));
        assert!(!rules.iter().any(|rule| rule.to.to_string() == "9.9.9.9/32"));
    }

    #[test]
    fn an_error_names_the_line() {
        let refused = |text: &str| toml::from_str::<File>(text).err().unwrap().to_string();
        let text = refused("internal = [\"a.org\"]\n");
        assert!(text.contains("line 1") && text.contains("IPv4 address or network"), "{text}");
        assert!(refused("unknown = \"maybe\"\n").contains("`ask`"));
        assert!(refused("alow = []\n").contains("`allow`"));
    }
}
