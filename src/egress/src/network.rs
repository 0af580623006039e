//! Network policies in TOML files.
//!
//! ```toml
//! default = "deny"                  # or "allow": the public internet
//! dns = true                        # resolve names with the host's DNS servers; default: if `allow`
//!
//! [[rule]]                          # the first matching rule decides
//! action = "allow"
//! to = ["140.82.112.0/20", "10.1.2.3"]
//! protocol = "tcp"                  # tcp, udp or icmp; default: any
//! ports = [443, "8000-8100"]        # of tcp and udp; default: any
//!
//! [limits]
//! upload = "20M"                    # bits per second
//! download = "100M"
//! connections = 1000
//! ```

use std::fs;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::Path;

use ipnet::Ipv4Net;
use sandbox::{Action, Limits, Network, Policy, Protocol, Rule};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result, Usage};
use crate::number::{Word, decimal};

/// The largest number of rules of a policy, after expansion.
const MAX_RULES: usize = 4096;

/// The format of a policy with its limits: a file, or a table of the runner's configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(default)]
    default: Verb,
    dns: Option<bool>,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleEntry>,
    #[serde(default)]
    limits: LimitsTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEntry {
    action: Verb,
    to: List<Net>,
    protocol: Option<ProtocolName>,
    ports: Option<List<Ports>>,
}

/// The format of network limits.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub struct LimitsTable {
    upload: Option<Rate>,
    download: Option<Rate>,
    connections: Option<u32>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Allow,
    #[default]
    Deny,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum ProtocolName {
    Tcp,
    Udp,
    Icmp,
}

/// One element or a list.
struct List<T>(Vec<T>);

struct Net(Ipv4Net);

struct Ports(RangeInclusive<u16>);

/// Bits per second.
struct Rate(u64);

/// Reads a policy file.
pub fn read(path: &Path) -> Result<Network> {
    let text =
        fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| Usage::Policy { path: path.to_owned(), source }.into())
}

fn parse(text: &str) -> std::result::Result<Network, toml::de::Error> {
    from_table(toml::Deserializer::parse(text)?)
}

/// Reads a policy from a table.
pub fn from_table<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Network, D::Error> {
    let table = Table::deserialize(from)?;
    let mut rules = Vec::new();
    for entry in &table.rules {
        entry.expand(&mut rules).map_err(D::Error::custom)?;
    }
    if rules.len() > MAX_RULES {
        let text = format!(
            "the rules expand to {} combinations of networks and ports, more than {MAX_RULES}",
            rules.len()
        );
        return Err(D::Error::custom(text));
    }
    let default = table.default.into();
    // DNS can leak data, so it is on by default only if everything is allowed.
    let dns = table.dns.unwrap_or(default == Action::Allow);
    let policy = Policy { rules, default, dns, only: None };
    Ok(Network { policy, limits: table.limits.over(Limits::default()), ..Network::default() })
}

impl LimitsTable {
    /// These limits, with those of `limits` where one is not set.
    pub fn over(&self, limits: Limits) -> Limits {
        Limits {
            upload: self.upload.as_ref().map(|rate| rate.0).or(limits.upload),
            download: self.download.as_ref().map(|rate| rate.0).or(limits.download),
            connections: self.connections.unwrap_or(limits.connections),
        }
    }
}

impl RuleEntry {
    fn expand(&self, rules: &mut Vec<Rule>) -> std::result::Result<(), &'static str> {
        if self.protocol == Some(ProtocolName::Icmp) && self.ports.is_some() {
            return Err("icmp has no ports: remove `ports` from the rule");
        }
        let protocol = self.protocol.map(Protocol::from);
        let any = List(Vec::new());
        let ports = self.ports.as_ref().unwrap_or(&any);
        for Net(to) in &self.to.0 {
            let rule = Rule { action: self.action.into(), to: *to, protocol, ports: None };
            if ports.0.is_empty() {
                rules.push(rule.clone());
            }
            let with_ports =
                |Ports(range): &Ports| Rule { ports: Some(range.clone()), ..rule.clone() };
            rules.extend(ports.0.iter().map(with_ports));
        }
        Ok(())
    }
}

impl From<Verb> for Action {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Allow => Self::Allow,
            Verb::Deny => Self::Deny,
        }
    }
}

impl From<ProtocolName> for Protocol {
    fn from(name: ProtocolName) -> Self {
        match name {
            ProtocolName::Tcp => Self::Tcp,
            ProtocolName::Udp => Self::Udp,
            ProtocolName::Icmp => Self::Icmp,
        }
    }
}

/// An empty list is rejected: its meaning would be ambiguous.
impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct Visitor<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> serde::de::Visitor<'de> for Visitor<T> {
            type Value = List<T>;

            fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                out.write_str("one value or a list")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<List<T>, E> {
                let from = serde::de::value::StrDeserializer::new(text);
                Ok(List(vec![T::deserialize(from)?]))
            }

            fn visit_i64<E: serde::de::Error>(
                self,
                number: i64,
            ) -> std::result::Result<List<T>, E> {
                let from = serde::de::value::I64Deserializer::new(number);
                Ok(List(vec![T::deserialize(from)?]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut all: A,
            ) -> std::result::Result<List<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(one) = all.next_element()? {
                    list.push(one);
                }
                if list.is_empty() {
                    return Err(A::Error::custom("an empty list matches nothing: leave it out"));
                }
                Ok(List(list))
            }
        }

        from.deserialize_any(Visitor(std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for Net {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let net = text.parse().or_else(|_| text.parse::<Ipv4Addr>().map(Ipv4Net::from));
        let refused = || D::Error::custom(format!("`{text}`: expected an IPv4 address or network"));
        net.map(|net: Ipv4Net| Self(net.trunc())).map_err(|_| refused())
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = Word::deserialize(from)?.text();
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        let port = |text: &str| text.trim().parse::<u16>().ok();
        match (port(first), port(last)) {
            (Some(first), Some(last)) if first <= last => Ok(Self(first..=last)),
            _ => Err(D::Error::custom(format!("`{text}`: expected a port or a range like 80-90"))),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = Word::deserialize(from)?.text();
        let rate = decimal(&text);
        let refused = || format!("`{text}`: expected bits per second, like 20M, at least 8K");
        rate.filter(|rate| *rate >= 8_000).map(Self).ok_or_else(|| D::Error::custom(refused()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_policy_expands_to_rules_in_order() {
        let text = r#"
            default = "allow"
            dns = false
            [[rule]]
            action = "deny"
            to = ["1.2.3.4", "10.0.0.0/8"]
            protocol = "udp"
            ports = [443, "8000-8100"]
            [[rule]]
            action = "allow"
            to = "5.6.7.8/16"
            [limits]
            upload = "20M"
            connections = 7
        "#;
        let Network { policy, limits, .. } = parse(text).unwrap();
        let rule = |action, to: &str, protocol, ports| Rule {
            action,
            to: to.parse().unwrap(),
            protocol,
            ports,
        };
        let udp = Some(Protocol::Udp);
        let expected = [
            rule(Action::Deny, "1.2.3.4/32", udp, Some(443..=443)),
            rule(Action::Deny, "1.2.3.4/32", udp, Some(8000..=8100)),
            rule(Action::Deny, "10.0.0.0/8", udp, Some(443..=443)),
            rule(Action::Deny, "10.0.0.0/8", udp, Some(8000..=8100)),
            rule(Action::Allow, "5.6.0.0/16", None, None),
        ];
        assert_eq!(policy.rules, expected);
        assert_eq!((policy.default, policy.dns), (Action::Allow, false));
        assert_eq!(limits, Limits { upload: Some(20_000_000), download: None, connections: 7 });
    }

    #[test]
    fn the_default_is_to_deny() {
        let network = parse("").unwrap();
        assert_eq!(network.policy, Policy::none());
        assert!(parse("default = \"allow\"").unwrap().policy.dns);
        assert_eq!(network.limits, Limits::default());
    }

    #[test]
    fn an_error_names_the_line_and_the_expected_value() {
        let text = refused("dns = true\n[[rule]]\naction = \"allow\"\nto = \"example.org\"\n");
        assert!(text.contains("line 4") && text.contains("expected an IPv4 address"), "{text}");
        let text = refused("default = \"alow\"\n");
        assert!(text.contains("line 1") && text.contains("`allow`"), "{text}");
        let text = refused("[limits]\nuplod = 1\n");
        assert!(text.contains("line 2") && text.contains("`upload`"), "{text}");
        let rule = "[[rule]]\naction = \"deny\"\nto = \"1.1.1.1\"\n";
        assert!(refused(&format!("{rule}ports = \"90-80\"\n")).contains("a range like 80-90"));
        assert!(refused(&format!("{rule}ports = 65536\n")).contains("expected a port"));
        assert!(refused(&format!("{rule}ports = []\n")).contains("leave it out"));
        let icmp = format!("{rule}protocol = \"icmp\"\nports = 80\n");
        assert!(refused(&icmp).contains("icmp has no ports"));
        assert!(refused("[limits]\nupload = \"fast\"\n").contains("bits per second"));
    }
}
