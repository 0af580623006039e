//! The nftables rules in a namespace: what a guest may send.
//!
//! ```text
//!             tap0                                             uplink
//!  guest ──▶ [ingress: the guest's own address?] ──▶ forward ──▶ [snat to the slot's address] ──▶ host
//!  guest ◀────────────────────────────────────── forward ◀─────────────────────────────── host
//!                       │ to the gateway itself
//!                       ▼
//!                     input, output: the sockets of the forwarder
//! ```
//!
//! The chain `forward` decides about a connection once, by the chain `decide`, and sets the number of the
//! policy as the connection's mark. A new policy has a new number. So one transaction also revokes open
//! connections, without a search for them. A policy that is restricted to destinations has its rules in the chain
//! `selected`, which only those reach; the forwarder adds the addresses of hosts to a set when they are resolved.
//!
//! INVARIANT: a packet passes only if the policy in force has accepted its connection.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sandbox::{Action, Limits, Policy, Protocol};

use crate::guest::{ADDRESS, GATEWAY, MAC, TAP};
use crate::nft::{
    Chain, ESTABLISHED_OR_RELATED, Family, Hook, INVALID, Rule, SetKind, Table, Transaction,
};
use crate::slot::TrafficConfig;

/// The link of the namespace that leads to the host.
pub(crate) const UPLINK: &str = "uplink";

/// Packets that arrive by the tap.
pub(crate) const INGRESS_TABLE: Table = Table { family: Family::Netdev, name: "ingress" };
/// All other packets.
pub(crate) const POLICY_TABLE: Table = Table { family: Family::Ip, name: "policy" };

/// Networks that are not on the public internet. A policy opens them only by naming them.
const INTERNAL: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    // Azure's metadata service, although the address is public.
    "168.63.129.16/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
];
const INTERNAL_SET: &str = "internal";

/// The counters; see [`Counters`](crate::Counters).
pub(crate) const SENT: &str = "sent";
pub(crate) const RECEIVED: &str = "received";
pub(crate) const REFUSED: &str = "refused";
pub(crate) const SPOOFED: &str = "spoofed";
pub(crate) const MULTICAST: &str = "multicast";
pub(crate) const OVER_LIMIT: &str = "over_limit";

const FORWARD: Chain = filter("forward", libc::NF_INET_FORWARD);
const INPUT: Chain = filter("input", libc::NF_INET_LOCAL_IN);
/// Connections beyond the limit.
const LIMIT: Chain = Chain { name: "limit", hook: None };
const DECIDE: Chain = Chain { name: "decide", hook: None };
/// Decides about destinations that the policy is restricted to.
const SELECTED: Chain = Chain { name: "selected", hook: None };
const ADMIT: Chain = Chain { name: "admit", hook: None };
const REJECT: Chain = Chain { name: "reject", hook: None };
/// DNS queries.
const DNS_CHAIN: Chain = Chain { name: "dns", hook: None };
const OUTPUT: Chain = filter("output", libc::NF_INET_LOCAL_OUT);

/// The set of ports of the gateway that lead to services of the host.
const SERVICE_PORTS: &str = "services";
/// The set of addresses that hosts of the policy have.
const RESOLVED: &str = "resolved";
/// The limit of open connections to the gateway.
const GATEWAY_CONNECTIONS: u32 = 512;

/// The port of DNS servers.
pub(crate) const DNS: u16 = 53;

/// Reported rejects per second. More are dropped without a report.
const REPORTED: u64 = 50;
/// DNS queries per second, each from a port of its own.
const QUERIES: u64 = 500;
/// Answered pings per second.
const ECHO: u64 = 20;
/// Answered ARP messages per second.
const ARP: u64 = 50;

const fn filter(name: &'static str, number: libc::c_int) -> Chain {
    Chain {
        name,
        hook: Some(Hook { kind: "filter", number, priority: 0, device: None, accepts: false }),
    }
}

/// All rules, in one transaction.
pub(crate) fn make(slot: Ipv4Addr, traffic: &TrafficConfig, number: u32) -> Transaction {
    let transaction = add_ingress_table(Transaction::on(INGRESS_TABLE));
    let transaction = add_policy_table(transaction.then_on(POLICY_TABLE), slot);
    let transaction =
        transaction.add_rule(LIMIT.name, &connection_limit(traffic.limits.connections));
    add_policy(transaction, traffic, number)
}

/// Replaces the policy and the limits in one transaction. `number` must be new in this namespace.
pub(crate) fn change(traffic: &TrafficConfig, old: &Limits, number: u32) -> Transaction {
    let limits = &traffic.limits;
    let mut emptied = [FORWARD, ADMIT, DECIDE, SELECTED, DNS_CHAIN]
        .iter()
        .fold(Transaction::on(POLICY_TABLE), |transaction, chain| {
            transaction.flush_chain(chain.name)
        });
    // The chain counts open connections, so it is kept unless the limit changes.
    if limits.connections != old.connections {
        emptied = emptied
            .flush_chain(LIMIT.name)
            .add_rule(LIMIT.name, &connection_limit(limits.connections));
    }
    add_policy(emptied.flush_set(RESOLVED), traffic, number)
}

/// Opens addresses that hosts of the policy have.
pub(crate) fn open_resolved(addresses: &[Ipv4Addr]) -> Transaction {
    add_resolved(Transaction::on(POLICY_TABLE), addresses)
}

/// Opens these addresses of hosts, and closes all others to new connections.
pub(crate) fn replace_resolved(addresses: &[Ipv4Addr]) -> Transaction {
    add_resolved(Transaction::on(POLICY_TABLE).flush_set(RESOLVED), addresses)
}

fn add_resolved(transaction: Transaction, addresses: &[Ipv4Addr]) -> Transaction {
    addresses.iter().fold(transaction, |transaction, address| {
        transaction.add_element(RESOLVED, &address.octets())
    })
}

/// Closes all ports of the gateway.
pub(crate) fn close_services() -> Transaction {
    Transaction::on(POLICY_TABLE).flush_set(SERVICE_PORTS)
}

/// Accepts only packets from the guest's own address, of IPv4 or ARP.
fn add_ingress_table(transaction: Transaction) -> Transaction {
    let ingress = Chain {
        name: "ingress",
        hook: Some(Hook {
            kind: "filter",
            number: libc::NF_NETDEV_INGRESS,
            priority: 0,
            device: Some(TAP),
            accepts: false,
        }),
    };
    let rules = [
        Rule::new().ether_saddr_not(MAC).counter(SPOOFED).drop(),
        // A guest's kernel sends these by itself, so they are counted and not reported.
        Rule::new().meta_protocol(libc::ETH_P_IP).ether_daddr_is_group().counter(MULTICAST).drop(),
        Rule::new()
            .meta_protocol(libc::ETH_P_IPV6)
            .ether_daddr_is_group()
            .counter(MULTICAST)
            .drop(),
        Rule::new().meta_protocol(libc::ETH_P_IP).ip_saddr(ADDRESS).counter(SENT).accept(),
        Rule::new().meta_protocol(libc::ETH_P_ARP).arp_saddr(MAC, ADDRESS).limit_rate(ARP).accept(),
        // IPv6 is dropped without a reject: nothing in the namespace could answer.
        Rule::new().counter(SPOOFED),
        Rule::new().meta_protocol(libc::ETH_P_IP).limit_rate(REPORTED).log().drop(),
        Rule::new().meta_protocol(libc::ETH_P_IPV6).limit_rate(REPORTED).log().drop(),
        Rule::new().drop(),
    ];
    let counters = [SENT, SPOOFED, MULTICAST];
    let transaction = transaction.create_table();
    let transaction =
        counters.into_iter().fold(transaction, Transaction::add_counter).add_chain(ingress);
    rules.iter().fold(transaction, |transaction, rule| transaction.add_rule(ingress.name, rule))
}

/// The rules that do not depend on the policy.
fn add_policy_table(transaction: Transaction, slot: Ipv4Addr) -> Transaction {
    let hook = Hook {
        kind: "nat",
        number: libc::NF_INET_POST_ROUTING,
        priority: libc::NF_IP_PRI_NAT_SRC,
        device: None,
        accepts: true,
    };
    let postrouting = Chain { name: "postrouting", hook: Some(hook) };
    let internal: Vec<Ipv4Net> = internal().collect();
    let mut transaction = transaction.create_table().add_set(INTERNAL_SET, SetKind::Networks);
    transaction = transaction.add_networks(INTERNAL_SET, &internal);
    transaction = transaction.add_set(SERVICE_PORTS, SetKind::Ports);
    transaction = transaction.add_set(RESOLVED, SetKind::Addresses);
    for counter in [RECEIVED, REFUSED, OVER_LIMIT] {
        transaction = transaction.add_counter(counter);
    }
    for chain in
        [LIMIT, DECIDE, SELECTED, ADMIT, REJECT, DNS_CHAIN, FORWARD, INPUT, OUTPUT, postrouting]
    {
        transaction = transaction.add_chain(chain);
    }
    let to_gateway = || Rule::new().iifname(TAP).ip_daddr(Ipv4Net::from(GATEWAY));
    transaction
        .add_rule(
            REJECT.name,
            &Rule::new().counter(REFUSED).limit_rate(REPORTED).log().reject_ipv4(),
        )
        .add_rule(REJECT.name, &Rule::new().drop())
        .add_rule(INPUT.name, &Rule::new().iifname(TAP).ct_state(ESTABLISHED_OR_RELATED).accept())
        // Replies to connections of the namespace itself.
        .add_rule(
            INPUT.name,
            &Rule::new().iifname(UPLINK).ct_state(ESTABLISHED_OR_RELATED).accept(),
        )
        .add_rule(INPUT.name, &Rule::new().ct_state(INVALID).drop())
        // A rejected packet leaves no conntrack entry, so a guest cannot fill the kernel's table.
        .add_rule(INPUT.name, &connection_limit(GATEWAY_CONNECTIONS))
        .add_rule(INPUT.name, &to_gateway().jump(DNS_CHAIN.name))
        .add_rule(
            INPUT.name,
            &to_gateway().l4proto(libc::IPPROTO_TCP).th_dport_in(SERVICE_PORTS).accept(),
        )
        .add_rule(INPUT.name, &to_gateway().l4proto(libc::IPPROTO_ICMP).limit_rate(ECHO).accept())
        .add_rule(INPUT.name, &Rule::new().iifname(TAP).goto(REJECT.name))
        // Late segments of an earlier guest's connections, whose conntrack entries were deleted, must not reach
        // this guest.
        .add_rule(OUTPUT.name, &Rule::new().ct_state(INVALID).drop())
        .add_rule(OUTPUT.name, &Rule::new().accept())
        .add_rule(postrouting.name, &Rule::new().oifname(UPLINK).snat(slot))
}

/// The rules of the policy.
fn add_policy(transaction: Transaction, traffic: &TrafficConfig, number: u32) -> Transaction {
    let policy = &traffic.policy;
    let accepted = || Rule::new().ct_state(ESTABLISHED_OR_RELATED).ct_mark(number);
    let mut transaction = transaction
        .add_rule(FORWARD.name, &accepted().oifname(TAP).counter(RECEIVED).accept())
        .add_rule(FORWARD.name, &accepted().iifname(TAP).accept())
        .add_rule(FORWARD.name, &Rule::new().oifname(TAP).drop())
        .add_rule(FORWARD.name, &Rule::new().ct_state(INVALID).drop())
        .add_rule(FORWARD.name, &Rule::new().iifname(TAP).jump(LIMIT.name))
        .add_rule(FORWARD.name, &Rule::new().iifname(TAP).goto(DECIDE.name))
        .add_rule(ADMIT.name, &Rule::new().set_ct_mark(number).accept());
    if policy.dns {
        for protocol in [libc::IPPROTO_UDP, libc::IPPROTO_TCP] {
            let query = Rule::new().l4proto(protocol).th_dport(&(DNS..=DNS));
            transaction = transaction.add_rule(DNS_CHAIN.name, &query.limit_rate(QUERIES).accept());
        }
    }
    for rule in traffic.exempt.iter().flat_map(rules) {
        transaction = transaction.add_rule(DECIDE.name, &rule);
    }
    let Some(only) = &policy.only else { return add_rules(transaction, DECIDE, policy) };
    for net in &only.nets {
        let selected = Rule::new().ip_daddr(*net).goto(SELECTED.name);
        transaction = transaction.add_rule(DECIDE.name, &selected);
    }
    transaction = transaction
        .add_rule(DECIDE.name, &Rule::new().ip_daddr_in(RESOLVED).goto(SELECTED.name))
        .add_rule(DECIDE.name, &Rule::new().goto(REJECT.name));
    add_rules(transaction, SELECTED, policy)
}

/// The rules of the policy and its default.
fn add_rules(mut transaction: Transaction, chain: Chain, policy: &Policy) -> Transaction {
    for rule in policy.rules.iter().flat_map(rules) {
        transaction = transaction.add_rule(chain.name, &rule);
    }
    match policy.default {
        Action::Allow => transaction
            .add_rule(chain.name, &Rule::new().ip_daddr_in(INTERNAL_SET).goto(REJECT.name))
            .add_rule(chain.name, &Rule::new().goto(ADMIT.name)),
        Action::Deny => transaction.add_rule(chain.name, &Rule::new().goto(REJECT.name)),
    }
}

/// Rejects connections beyond the limit.
fn connection_limit(connections: u32) -> Rule {
    Rule::new().iifname(TAP).ct_count_over(connections).counter(OVER_LIMIT).reject_ipv4()
}

/// Opens a port of the gateway.
pub(crate) fn serve(port: u16) -> Transaction {
    Transaction::on(POLICY_TABLE).add_element(SERVICE_PORTS, &port.to_be_bytes())
}

/// Translates a rule of a policy.
fn rules(rule: &sandbox::Rule) -> Vec<Rule> {
    let names_internal = is_internal(&rule.to);
    let chain = match rule.action {
        Action::Allow => ADMIT,
        Action::Deny => REJECT,
    };
    let destination = || {
        let destination = Rule::new().ip_daddr(rule.to);
        match rule.action {
            Action::Allow if !names_internal => destination.ip_daddr_not_in(INTERNAL_SET),
            _ => destination,
        }
    };
    let by = |number| match &rule.ports {
        Some(ports) => destination().l4proto(number).th_dport(ports).goto(chain.name),
        None => destination().l4proto(number).goto(chain.name),
    };
    match (rule.protocol, &rule.ports) {
        (Some(Protocol::Tcp), _) => vec![by(libc::IPPROTO_TCP)],
        (Some(Protocol::Udp), _) => vec![by(libc::IPPROTO_UDP)],
        (Some(Protocol::Icmp), _) => {
            vec![destination().l4proto(libc::IPPROTO_ICMP).goto(chain.name)]
        }
        (None, Some(_)) => vec![by(libc::IPPROTO_TCP), by(libc::IPPROTO_UDP)],
        (None, None) => vec![destination().goto(chain.name)],
    }
}

/// Whether no address of a network is on the public internet.
pub fn is_internal(net: &Ipv4Net) -> bool {
    internal().any(|internal| internal.contains(net))
}

fn internal() -> impl Iterator<Item = Ipv4Net> {
    INTERNAL.iter().filter_map(|net| net.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_internal_network_parses() {
        assert_eq!(internal().count(), INTERNAL.len());
    }

    #[test]
    fn a_rule_with_ports_and_no_protocol_applies_to_tcp_and_udp() {
        let rule = sandbox::Rule {
            action: Action::Allow,
            to: "1.2.3.0/24".parse().unwrap(),
            protocol: None,
            ports: Some(80..=81),
        };
        assert_eq!(rules(&rule).len(), 2);
    }
}
