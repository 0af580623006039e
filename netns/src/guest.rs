//! The network as the VM sees it. It is the same in every VM, so that a snapshot of one can be restored in
//! another.

use std::net::Ipv4Addr;

/// The name of the tap that a monitor opens.
pub const TAP: &str = "tap0";
/// The guest's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 241, 2);
/// The guest's gateway and DNS server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 241, 1);
/// The prefix length of their network.
pub const PREFIX: u8 = 29;
/// The hardware address of the guest's network card.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The hardware address of the gateway. It is fixed, so a restored guest's ARP cache is valid.
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
