//! The rules inside of a namespace: who may send what.
//!
//! ```text
//!             tap0                                             uplink
//!  guest ──▶ [guard: is it the guest at all?] ──▶ forward ──▶ [come from the slot's address] ──▶ host
//!  guest ◀────────────────────────────────────── forward ◀─────────────────────────────── host
//!                       │ to the gateway itself
//!                       ▼
//!                     input, output: the sockets of the relay
//! ```
//!
//! In the chain `forward` each connection is decided about once, by the chain `decide`, and carries
//! the number of the policy as its mark from then on. A new policy has a new number: so it decides
//! about the open connections too, with one transaction and nothing to sweep.
//!
//! INVARIANT: a packet passes only if the policy in force has let its connection pass.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use sandbox::{Action, Limits, Policy, Protocol};

use crate::guest::{ADDRESS, GATEWAY, MAC, TAP};
use crate::nft::{Chain, Family, Hook, INVALID, KNOWN, Rule, SetKind, Table, Transaction};

/// The link of the namespace that leads to the host.
pub(crate) const UPLINK: &str = "uplink";

/// What comes in by the tap.
pub(crate) const GUARD: Table = Table { family: Family::Netdev, name: "guard" };
/// All else.
pub(crate) const GATE: Table = Table { family: Family::Ip, name: "gate" };

/// Not the public internet: the networks that a policy opens only by naming them.
const INTERNAL: [&str; 14] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    // Where one cloud tells its secrets though it be public by its number.
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
/// The set of them.
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
/// What ends at the limit.
const LIMIT: Chain = Chain { name: "limit", hook: None };
const DECIDE: Chain = Chain { name: "decide", hook: None };
const ADMIT: Chain = Chain { name: "admit", hook: None };
const REFUSE: Chain = Chain { name: "refuse", hook: None };
/// What becomes of questions for names.
const NAMES: Chain = Chain { name: "names", hook: None };
const OUTPUT: Chain = filter("output", libc::NF_INET_LOCAL_OUT);

/// The ports of the gateway by which the guest reaches services of the host.
const SERVICES: &str = "services";
/// As many connections to the gateway may be open at once.
const TO_GATEWAY: u32 = 512;

/// The port of name servers.
pub(crate) const DNS: u16 = 53;

/// As many refusals a second are told; more are dropped in silence.
const TOLD: u64 = 50;
/// As many questions for names a second are taken, each from a port of its own.
const QUESTIONS: u64 = 500;
/// As many pings a second are answered.
const ECHO: u64 = 20;
/// As many ARP messages a second are answered.
const ARP: u64 = 50;

const fn filter(name: &'static str, number: libc::c_int) -> Chain {
    Chain {
        name,
        hook: Some(Hook { kind: "filter", number, priority: 0, device: None, accepts: false }),
    }
}

/// All of it, in one transaction.
pub(crate) fn make(slot: Ipv4Addr, policy: &Policy, limits: &Limits, number: u32) -> Transaction {
    let transaction = guard(Transaction::on(GUARD));
    let transaction = gate(transaction.and_on(GATE), slot);
    let transaction = transaction.rule(LIMIT.name, &over(limits.connections));
    decide(transaction, policy, number)
}

/// Another policy and another limit instead of what was there, in one transaction. `number` was never
/// used before here.
pub(crate) fn change(policy: &Policy, limits: &Limits, had: &Limits, number: u32) -> Transaction {
    let mut emptied = [FORWARD, ADMIT, DECIDE, NAMES]
        .iter()
        .fold(Transaction::on(GATE), |transaction, chain| transaction.empty(chain.name));
    // The connections that are open stay counted, unless they are counted to another number.
    if limits.connections != had.connections {
        emptied = emptied.empty(LIMIT.name).rule(LIMIT.name, &over(limits.connections));
    }
    decide(emptied, policy, number)
}

/// Closes all ports of the gateway that were opened.
pub(crate) fn close_services() -> Transaction {
    Transaction::on(GATE).empty_set(SERVICES)
}

/// Lets in only what the guest may send at all: in its own name, and of IPv4 or ARP.
fn guard(transaction: Transaction) -> Transaction {
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
        Rule::new().sender_is_not(MAC).count(SPOOFED).drop(),
        // A kernel's own chatter, which nobody has asked for, is counted and not told.
        Rule::new().ether_type(libc::ETH_P_IP).ether_daddr_is_group().count(MULTICAST).drop(),
        Rule::new().ether_type(libc::ETH_P_IPV6).ether_daddr_is_group().count(MULTICAST).drop(),
        Rule::new().ether_type(libc::ETH_P_IP).source(ADDRESS).count(SENT).accept(),
        Rule::new().ether_type(libc::ETH_P_ARP).arp_sender(MAC, ADDRESS).at_most(ARP).accept(),
        // The sender of IPv6 gets no answer: there is none.
        Rule::new().count(SPOOFED),
        Rule::new().ether_type(libc::ETH_P_IP).at_most(TOLD).log().drop(),
        Rule::new().ether_type(libc::ETH_P_IPV6).at_most(TOLD).log().drop(),
        Rule::new().drop(),
    ];
    let counters = [SENT, SPOOFED, MULTICAST];
    let transaction = transaction.make_table();
    let transaction = counters.into_iter().fold(transaction, Transaction::counter).chain(ingress);
    rules.iter().fold(transaction, |transaction, rule| transaction.rule(ingress.name, rule))
}

/// Everything but what the policy decides.
fn gate(transaction: Transaction, slot: Ipv4Addr) -> Transaction {
    let hook = Hook {
        kind: "nat",
        number: libc::NF_INET_POST_ROUTING,
        priority: libc::NF_IP_PRI_NAT_SRC,
        device: None,
        accepts: true,
    };
    let leave = Chain { name: "leave", hook: Some(hook) };
    let internal: Vec<Ipv4Net> = internal().collect();
    let mut transaction = transaction.make_table().set(INTERNAL_SET, SetKind::Networks);
    transaction = transaction.add_networks(INTERNAL_SET, &internal);
    transaction = transaction.set(SERVICES, SetKind::Ports);
    for counter in [RECEIVED, REFUSED, OVER_LIMIT] {
        transaction = transaction.counter(counter);
    }
    for chain in [LIMIT, DECIDE, ADMIT, REFUSE, NAMES, FORWARD, INPUT, OUTPUT, leave] {
        transaction = transaction.chain(chain);
    }
    let to_gateway = || Rule::new().input(TAP).destination(Ipv4Net::from(GATEWAY));
    transaction
        .rule(REFUSE.name, &Rule::new().count(REFUSED).at_most(TOLD).log().refuse_ipv4())
        .rule(REFUSE.name, &Rule::new().drop())
        .rule(INPUT.name, &Rule::new().input(TAP).state(KNOWN).accept())
        // Answers to what the namespace itself has asked for.
        .rule(INPUT.name, &Rule::new().input(UPLINK).state(KNOWN).accept())
        .rule(INPUT.name, &Rule::new().state(INVALID).drop())
        // What is refused is not remembered: a guest cannot fill the kernel's memory with it.
        .rule(INPUT.name, &over(TO_GATEWAY))
        .rule(INPUT.name, &to_gateway().jump(NAMES.name))
        .rule(INPUT.name, &to_gateway().protocol(libc::IPPROTO_TCP).port_in(SERVICES).accept())
        .rule(INPUT.name, &to_gateway().protocol(libc::IPPROTO_ICMP).at_most(ECHO).accept())
        .rule(INPUT.name, &Rule::new().input(TAP).go_to(REFUSE.name))
        // What a closed connection of an earlier guest still has to say is not for this one: its
        // connection was forgotten.
        .rule(OUTPUT.name, &Rule::new().state(INVALID).drop())
        .rule(OUTPUT.name, &Rule::new().accept())
        .rule(leave.name, &Rule::new().output(UPLINK).come_from(slot))
}

/// What the policy decides.
fn decide(transaction: Transaction, policy: &Policy, number: u32) -> Transaction {
    let known = || Rule::new().state(KNOWN).mark(number);
    let mut transaction = transaction
        .rule(FORWARD.name, &known().output(TAP).count(RECEIVED).accept())
        .rule(FORWARD.name, &known().input(TAP).accept())
        .rule(FORWARD.name, &Rule::new().output(TAP).drop())
        .rule(FORWARD.name, &Rule::new().state(INVALID).drop())
        .rule(FORWARD.name, &Rule::new().input(TAP).jump(LIMIT.name))
        .rule(FORWARD.name, &Rule::new().input(TAP).go_to(DECIDE.name))
        .rule(ADMIT.name, &Rule::new().set_mark(number).accept());
    if policy.dns {
        for protocol in [libc::IPPROTO_UDP, libc::IPPROTO_TCP] {
            let question = Rule::new().protocol(protocol).port(&(DNS..=DNS));
            transaction = transaction.rule(NAMES.name, &question.at_most(QUESTIONS).accept());
        }
    }
    for rule in policy.rules.iter().flat_map(rules) {
        transaction = transaction.rule(DECIDE.name, &rule);
    }
    match policy.default {
        Action::Allow => transaction
            .rule(DECIDE.name, &Rule::new().destination_in(INTERNAL_SET).go_to(REFUSE.name))
            .rule(DECIDE.name, &Rule::new().go_to(ADMIT.name)),
        Action::Deny => transaction.rule(DECIDE.name, &Rule::new().go_to(REFUSE.name)),
    }
}

/// One connection too many.
fn over(connections: u32) -> Rule {
    Rule::new().input(TAP).over(connections).count(OVER_LIMIT).refuse_ipv4()
}

/// Opens a port of the gateway.
pub(crate) fn serve(port: u16) -> Transaction {
    Transaction::on(GATE).add_element(SERVICES, &port.to_be_bytes())
}

/// What a policy's rule is in the kernel's terms.
fn rules(rule: &sandbox::Rule) -> Vec<Rule> {
    let names_internal = internal().any(|net| net.contains(&rule.to));
    let chain = match rule.action {
        Action::Allow => ADMIT,
        Action::Deny => REFUSE,
    };
    let destination = || {
        let destination = Rule::new().destination(rule.to);
        match rule.action {
            Action::Allow if !names_internal => destination.destination_outside(INTERNAL_SET),
            _ => destination,
        }
    };
    let by = |number| match &rule.ports {
        Some(ports) => destination().protocol(number).port(ports).go_to(chain.name),
        None => destination().protocol(number).go_to(chain.name),
    };
    match (rule.protocol, &rule.ports) {
        (Some(Protocol::Tcp), _) => vec![by(libc::IPPROTO_TCP)],
        (Some(Protocol::Udp), _) => vec![by(libc::IPPROTO_UDP)],
        (Some(Protocol::Icmp), _) => {
            vec![destination().protocol(libc::IPPROTO_ICMP).go_to(chain.name)]
        }
        (None, Some(_)) => vec![by(libc::IPPROTO_TCP), by(libc::IPPROTO_UDP)],
        (None, None) => vec![destination().go_to(chain.name)],
    }
}

fn internal() -> impl Iterator<Item = Ipv4Net> {
    INTERNAL.iter().filter_map(|net| net.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_internal_network_is_one() {
        assert_eq!(internal().count(), INTERNAL.len());
    }

    #[test]
    fn ports_without_a_protocol_are_those_of_tcp_and_udp() {
        let rule = sandbox::Rule {
            action: Action::Allow,
            to: "1.2.3.0/24".parse().unwrap(),
            protocol: None,
            ports: Some(80..=81),
        };
        assert_eq!(rules(&rule).len(), 2);
    }
}
