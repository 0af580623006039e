//! What a network leaves on the host outside of its namespace, and its removal:
//!
//! - the link, with which the other end goes, and so the last access to the namespace
//! - conntrack entries
//! - elements of the host's sets
//!
//! The same removal serves the owner of a network and the runner that finds a dead owner's.

use nix::errno::Errno;

use crate::Result;
use crate::error::kernel;
use crate::host::Host;
use crate::link;
use crate::range::Addresses;

/// The garbage of one network.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Garbage {
    pub(crate) addresses: Addresses,
    /// The index of the host's end of its link.
    pub(crate) link: Option<u32>,
    pub(crate) has_host_elements: bool,
}

/// Removes it. The caller holds the locks on the addresses.
pub(crate) fn collect(host: &mut Host, garbage: &[Garbage]) -> Result<()> {
    remove_links(host, garbage)?;
    for of in garbage.iter().filter(|of| of.has_host_elements) {
        host.restore(of.addresses.namespace())?;
    }
    let addresses: Vec<_> = garbage.iter().map(|of| of.addresses).collect();
    host.forget(&addresses)
}

/// Removes all links as one group: the kernel waits for an RCU grace period once per request.
fn remove_links(host: &mut Host, garbage: &[Garbage]) -> Result<()> {
    let links: Vec<_> =
        garbage.iter().filter_map(|of| Some((of.link?, of.addresses.link()))).collect();
    // The group's number is unused, since the caller holds the lock on these addresses.
    let Some(group) = garbage.first().map(|of| of.addresses.number()) else { return Ok(()) };
    for (index, name) in &links {
        match host.route().request(&[link::regroup(*index, group)]) {
            // The link was removed with its namespace.
            Err(error) if error.errno == Errno::ENODEV => {}
            other => other.map_err(kernel("regroup", name))?,
        }
    }
    match host.route().request(&[link::remove_group(group)]) {
        Err(error) if error.errno == Errno::ENODEV => Ok(()),
        other => other.map_err(kernel("remove", format!("{} links", links.len()))),
    }
}
