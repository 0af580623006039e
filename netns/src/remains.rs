//! What there is of a network on the host, outside of its namespace, and how it is removed: whether
//! its owner lives and is done with it, or is dead.
//!
//! - the link, with which goes the other end, and so all that still reaches the namespace
//! - connections that the kernel remembers
//! - elements of the host's sets

use nix::errno::Errno;

use crate::Result;
use crate::error::kernel;
use crate::host::Host;
use crate::link;
use crate::range::Addresses;

/// What there is of one network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Remains {
    pub(crate) addresses: Addresses,
    /// The number of the host's end of its link.
    pub(crate) link: Option<u32>,
    pub(crate) is_redirected: bool,
}

/// Removes all of it. Whoever calls has the locks on the addresses.
pub(crate) fn remove(host: &mut Host, remains: &[Remains]) -> Result<()> {
    remove_links(host, remains)?;
    for of in remains.iter().filter(|of| of.is_redirected) {
        host.restore(of.addresses.namespace())?;
    }
    let addresses: Vec<_> = remains.iter().map(|of| of.addresses).collect();
    host.forget(&addresses)
}

/// The kernel waits for all processors after each removal, but for a group only once.
fn remove_links(host: &mut Host, remains: &[Remains]) -> Result<()> {
    let links: Vec<_> =
        remains.iter().filter_map(|of| Some((of.link?, of.addresses.link()))).collect();
    // Nobody else's, since nobody else has the lock on these addresses.
    let Some(group) = remains.first().map(|of| of.addresses.number()) else { return Ok(()) };
    for (index, name) in &links {
        match host.route().request(&[link::regroup(*index, group)]) {
            // It went with its namespace.
            Err(refusal) if refusal.errno == Errno::ENODEV => {}
            other => other.map_err(kernel("regroup", name))?,
        }
    }
    match host.route().request(&[link::remove_group(group)]) {
        Err(refusal) if refusal.errno == Errno::ENODEV => Ok(()),
        other => other.map_err(kernel("remove", format!("{} links", links.len()))),
    }
}
