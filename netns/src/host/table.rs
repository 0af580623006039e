//! The host's nftables table `sandbox_runner`: its sets, chains and rules.
//!
//! INVARIANT: a process with a proxy's user ID connects to an address of the host only if it is an
//! exception of that user ID, or a DNS server. The kernel decides by its routing table, so this holds
//! for a new address as soon as the host has it.

use std::net::Ipv4Addr;

use sandbox::{PROXY_UID, PROXY_UID_MASK};

use crate::nft::{Chain, ESTABLISHED_OR_RELATED, Family, Hook, Rule, SetKind, Table, Transaction};
use crate::range::LINK_PREFIX;

pub(super) const TABLE: Table = Table { family: Family::Inet, name: "sandbox_runner" };

/// Map from a VM's address to the port that its TCP is redirected to.
pub(super) const TCP_PROXIES: &str = "tcp_proxies";
/// VM address and TCP port of the host: the VM may connect to the port, as `TCP_PROXIES` redirects it there.
pub(super) const TCP_PORTS: &str = "tcp_ports";
/// VM address, host address and TCP port: the VM may connect without a proxy.
pub(super) const HOST_SOCKETS: &str = "host_sockets";
/// The sets with elements per VM. Each element begins with the VM's address.
pub(super) const SETS: [&str; 3] = [TCP_PROXIES, TCP_PORTS, HOST_SOCKETS];
/// User ID of a proxy, host address and TCP port: the proxy may connect. Port 0 stands for every port.
pub(super) const PROXY_EXCEPTIONS: &str = "proxy_exceptions";

const ARRIVE: Chain = chain("arrive", "filter", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_MANGLE);
/// Runs before the host's own destination NAT, which must not take precedence.
const REDIRECT: Chain =
    chain("redirect", "nat", libc::NF_INET_PRE_ROUTING, libc::NF_IP_PRI_NAT_DST - 10);
pub(super) const INPUT: Chain =
    chain("input", "filter", libc::NF_INET_LOCAL_IN, libc::NF_IP_PRI_FILTER);
const FORWARD: Chain = chain("forward", "filter", libc::NF_INET_FORWARD, libc::NF_IP_PRI_FILTER);
const LEAVE: Chain = chain("leave", "nat", libc::NF_INET_POST_ROUTING, libc::NF_IP_PRI_NAT_SRC);

const OUTPUT: Chain = chain("output", "filter", libc::NF_INET_LOCAL_OUT, libc::NF_IP_PRI_FILTER);
/// Packets of processes with a user ID of proxies.
const PROXY: Chain = Chain { name: "proxy", hook: None };
/// The port of DNS servers. The host itself may run one.
const DNS: u16 = 53;

/// Chains accept by default: other packets than ours are left to the host's own rules.
const fn chain(name: &'static str, kind: &'static str, number: i32, priority: i32) -> Chain {
    Chain { name, hook: Some(Hook { kind, number, priority, device: None, accepts: true }) }
}

pub(super) fn create(userdata: &[u8]) -> Transaction {
    let ours = || Rule::new().iifname_prefix(LINK_PREFIX);
    let mut transaction = Transaction::on(TABLE)
        .create_table_with_userdata(userdata)
        .add_set(TCP_PROXIES, SetKind::PortsByAddress)
        .add_set(TCP_PORTS, SetKind::AddressesAndPorts);
    for chain in [ARRIVE, REDIRECT, INPUT, FORWARD, LEAVE] {
        transaction = transaction.add_chain(chain);
    }
    let tcp = libc::IPPROTO_TCP;
    add_input_rules(add_proxy_filter(transaction))
        .add_rule(ARRIVE.name, &ours().nfproto_ipv6().drop())
        .add_rule(ARRIVE.name, &ours().rpf_fail().drop())
        .add_rule(REDIRECT.name, &ours().l4proto(tcp).redirect_map(TCP_PROXIES))
        .add_rule(FORWARD.name, &ours().oifname_prefix(LINK_PREFIX).reject())
        .add_rule(FORWARD.name, &ours().dnat_status().reject())
        .add_rule(
            FORWARD.name,
            &Rule::new().oifname_prefix(LINK_PREFIX).ct_state(ESTABLISHED_OR_RELATED).accept(),
        )
        .add_rule(FORWARD.name, &Rule::new().oifname_prefix(LINK_PREFIX).drop())
        .add_rule(LEAVE.name, &ours().oifname_not_prefix(LINK_PREFIX).masquerade())
}

/// Connections from VMs to the host: accepted to the port of their proxy, and to exceptions.
pub(super) fn add_input_rules(transaction: Transaction) -> Transaction {
    let ours = || Rule::new().iifname_prefix(LINK_PREFIX);
    let tcp = || ours().l4proto(libc::IPPROTO_TCP);
    transaction
        .add_rule(INPUT.name, &tcp().saddr_dport_in(TCP_PORTS).accept())
        .add_rule(INPUT.name, &tcp().saddr_daddr_dport_in(HOST_SOCKETS).accept())
        .add_rule(INPUT.name, &ours().reject())
}

/// The sets of exceptions, and the rules for proxies: they connect to neither the host's addresses nor
/// VMs, except to exceptions and DNS servers.
pub(super) fn add_proxy_filter(transaction: Transaction) -> Transaction {
    let (tcp, udp) = (libc::IPPROTO_TCP, libc::IPPROTO_UDP);
    let to_ipv4 = || Rule::new().nfproto_ipv4().l4proto(tcp);
    transaction
        .add_set(HOST_SOCKETS, SetKind::AddressesAndSockets)
        .add_set(PROXY_EXCEPTIONS, SetKind::UsersAndSockets)
        .add_chain(PROXY)
        .add_chain(OUTPUT)
        .add_rule(OUTPUT.name, &Rule::new().skuid(PROXY_UID, PROXY_UID_MASK).jump(PROXY.name))
        .add_rule(PROXY.name, &Rule::new().ct_state(ESTABLISHED_OR_RELATED).accept())
        .add_rule(PROXY.name, &Rule::new().oifname_prefix(LINK_PREFIX).reject())
        .add_rule(PROXY.name, &Rule::new().l4proto(udp).th_dport(&(DNS..=DNS)).accept())
        .add_rule(PROXY.name, &Rule::new().l4proto(tcp).th_dport(&(DNS..=DNS)).accept())
        .add_rule(PROXY.name, &to_ipv4().skuid_daddr_dport_in(PROXY_EXCEPTIONS).accept())
        .add_rule(PROXY.name, &to_ipv4().skuid_daddr_any_port_in(PROXY_EXCEPTIONS).accept())
        .add_rule(PROXY.name, &Rule::new().fib_daddr_not_unicast().reject())
}

/// An element of `TCP_PORTS`. Each field is padded to four bytes.
pub(super) fn port_element(vm: Ipv4Addr, port: u16) -> [u8; 8] {
    let ([a, b, c, d], [high, low]) = (vm.octets(), port.to_be_bytes());
    [a, b, c, d, high, low, 0, 0]
}

/// An element of `HOST_SOCKETS` or `PROXY_EXCEPTIONS`; `owner` is a VM's address or a user ID.
pub(super) fn socket_element(owner: [u8; 4], address: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut element = [owner, address.octets()].concat();
    element.extend(port.to_be_bytes());
    element.extend([0; 2]);
    element
}
