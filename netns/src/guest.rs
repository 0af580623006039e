//! The network as the VM sees it. It is the same in every VM, so that a snapshot of one can be restored in
//! another.

pub use contract::guest::{ADDRESS, GATEWAY, PREFIX};

/// The name of the tap that a monitor opens.
pub const TAP: &str = "tap0";
/// The hardware address of the guest's network card.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The hardware address of the gateway. It is fixed, so a restored guest's ARP cache is valid.
pub(crate) const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
