//! A network policy within another one: a destination is reached only if both allow it.

use ipnet::Ipv4Net;
use sandbox::{Action, Destinations, Policy, Rule};

/// What a user of a VM asks for. `allow` takes precedence over `deny`.
#[derive(Debug, Clone, Copy)]
pub struct Restriction<'a> {
    /// Networks that are reached.
    pub allow: &'a [Ipv4Net],
    /// Host names that are reached. They have an effect only if nothing else is reached but what is in `allow`.
    pub allow_hosts: &'a [String],
    /// Networks that are not reached.
    pub deny: &'a [Ipv4Net],
    /// Whether other networks are reached.
    pub allow_others: bool,
}

impl Restriction<'_> {
    /// The policy that allows what both `policy` and this allow. Names outside of `allow_hosts` are resolved only
    /// if destinations outside of all lists are reached: DNS can leak data.
    #[must_use]
    pub fn within(&self, policy: &Policy) -> Policy {
        let denies_others = !self.allow_others || self.deny.contains(&Ipv4Net::default());
        if denies_others && !self.allow_hosts.is_empty() {
            let (nets, hosts) = (self.allow.to_vec(), self.allow_hosts.to_vec());
            return Policy { only: Some(Destinations { nets, hosts }), ..policy.clone() };
        }
        let mut rules = Vec::new();
        for net in self.allow {
            restrict_to(*net, policy, &mut rules);
        }
        let deny =
            |to: &Ipv4Net| Rule { action: Action::Deny, to: *to, protocol: None, ports: None };
        rules.extend(self.deny.iter().map(deny));
        if denies_others {
            return Policy { rules, ..Policy::none() };
        }
        rules.extend(policy.rules.iter().cloned());
        Policy { rules, ..policy.clone() }
    }
}

/// The rules by which `policy` decides on the destinations in `net`, and on no others.
fn restrict_to(net: Ipv4Net, policy: &Policy, rules: &mut Vec<Rule>) {
    for rule in &policy.rules {
        let to = match (net.contains(&rule.to), rule.to.contains(&net)) {
            (true, _) => rule.to,
            (_, true) => net,
            _ => continue,
        };
        // A rule opens networks outside of the public internet only by naming them.
        let opens = rule.action == Action::Allow;
        if opens && netns::is_internal(&to) && !netns::is_internal(&rule.to) {
            continue;
        }
        rules.push(Rule { to, ..rule.clone() });
    }
    let action = if netns::is_internal(&net) { Action::Deny } else { policy.default };
    rules.push(Rule { action, to: net, protocol: None, ports: None });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn rule(action: Action, to: &str) -> Rule {
        Rule { action, to: net(to), protocol: None, ports: None }
    }

    const OPEN: Restriction<'static> =
        Restriction { allow: &[], allow_hosts: &[], deny: &[], allow_others: true };

    #[test]
    fn without_lists_the_policy_stays_or_nothing_is_reached() {
        assert_eq!(OPEN.within(&Policy::open()), Policy::open());
        assert_eq!(
            Restriction { allow_others: false, ..OPEN }.within(&Policy::open()),
            Policy::none()
        );
    }

    #[test]
    fn what_is_allowed_wins_over_what_is_denied() {
        let (allow, deny) = ([net("1.1.1.1/32")], [net("0.0.0.0/0")]);
        let policy = Restriction { allow: &allow, deny: &deny, ..OPEN }.within(&Policy::open());
        let rules = [rule(Action::Allow, "1.1.1.1/32"), rule(Action::Deny, "0.0.0.0/0")];
        assert_eq!(policy, Policy { rules: rules.into(), ..Policy::none() });
    }

    #[test]
    fn the_policy_decides_about_allowed_hosts() {
        let (allow, hosts) = ([net("1.1.1.1/32")], ["example.com".to_owned()]);
        let rules = vec![rule(Action::Deny, "8.8.0.0/16")];
        let policy = Policy { rules, ..Policy::open() };
        let restriction =
            Restriction { allow: &allow, allow_hosts: &hosts, allow_others: false, ..OPEN };
        let only = Some(Destinations { nets: allow.into(), hosts: hosts.clone().into() });
        assert_eq!(restriction.within(&policy), Policy { only, ..policy });
        let all = Restriction { allow_others: true, ..restriction };
        assert_eq!(all.within(&Policy::open()).only, None);
    }

    #[test]
    fn a_user_opens_no_internal_network() {
        for text in ["10.0.0.0/8", "169.254.169.254/32", "127.0.0.1/32"] {
            let allow = [net(text)];
            let restriction = Restriction { allow: &allow, ..OPEN };
            assert_eq!(restriction.within(&Policy::open()).rules, [rule(Action::Deny, text)]);
            // Nor by a rule that names all networks.
            let all = Policy { rules: vec![rule(Action::Allow, "0.0.0.0/0")], ..Policy::none() };
            assert_eq!(restriction.within(&all).rules[0], rule(Action::Deny, text));
        }
    }

    #[test]
    fn a_user_opens_nothing_that_the_policy_denies() {
        let rules = vec![rule(Action::Deny, "8.8.0.0/16"), rule(Action::Allow, "10.1.0.0/16")];
        let policy = Policy { rules, dns: true, ..Policy::none() };
        let allow = [net("8.0.0.0/8"), net("10.1.2.0/24")];

        let restricted = Restriction { allow: &allow, allow_others: false, ..OPEN }.within(&policy);

        let expected = [
            rule(Action::Deny, "8.8.0.0/16"),
            rule(Action::Deny, "8.0.0.0/8"),
            rule(Action::Allow, "10.1.2.0/24"),
            rule(Action::Deny, "10.1.2.0/24"),
        ];
        assert_eq!(restricted.rules, expected);
        assert!(!restricted.dns);
    }
}
