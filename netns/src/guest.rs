//! What the network looks like from inside of a VM: in every VM the same, so that a snapshot of one
//! may be restored in any.

use std::net::Ipv4Addr;

/// The name of the tap that a monitor opens.
pub const TAP: &str = "tap0";
/// The guest's address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 241, 2);
/// The guest's gateway and name server.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 241, 1);
/// Of which network they are.
pub const PREFIX: u8 = 29;
/// The hardware address of the guest's network card.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The hardware address of the gateway: a guest that remembers it from before a snapshot is right.
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
