//! The network: the loopback device, and the card if there is one.
//!
//! The card has the same addresses in every VM; only the host's side differs. So a snapshot of
//! one VM may be restored as another.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::path::Path;

use contract::guest::{ADDRESS, GATEWAY, PREFIX};

use crate::sys::Devices;
use crate::{Error, Result};

const LOOPBACK: &str = "lo";
const CARD: &str = "eth0";
const MASK: Ipv4Addr = Ipv4Addr::from_bits(u32::MAX << (32 - PREFIX));

/// Whether the card leaves IPv6 alone: no network of a VM's has it, so neighbour discovery, router
/// solicitations and multicast reports would only be dropped. The loopback device keeps `::1`.
const IPV6: &str = "/proc/sys/net/ipv6/conf/eth0/disable_ipv6";

/// Configures the loopback device and the card.
pub(crate) fn set_up() -> Result<()> {
    let failed = |device| move |source| Error::Network { device, source };
    let devices = Devices::open().map_err(failed(LOOPBACK))?;
    devices.set_up(LOOPBACK).map_err(failed(LOOPBACK))?;
    if !Path::new("/sys/class/net").join(CARD).exists() {
        return Ok(());
    }
    disable_ipv6().map_err(failed(CARD))?;
    devices.assign(CARD, ADDRESS, MASK).map_err(failed(CARD))?;
    devices.set_up(CARD).map_err(failed(CARD))?;
    devices.route_by(GATEWAY).map_err(failed(CARD))
}

/// Disable IPv6 before the card is up, so that it sends no packets.
fn disable_ipv6() -> io::Result<()> {
    match fs::write(IPV6, "1") {
        // A kernel without IPv6.
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        written => written,
    }
}
