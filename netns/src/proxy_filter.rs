//! What keeps the processes of proxies from the host's own addresses, in the kernel.

use std::collections::BTreeSet;

use sandbox::{Cause, HostFilter, HostSocket};

use crate::host::Host;

/// The rules of the host's table that match the user IDs of proxies, in the namespace of the calling
/// thread. They are there as long as the table is; this changes their exceptions.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProxyFilter;

impl HostFilter for ProxyFilter {
    fn permit(&self, uid: u32, sockets: &BTreeSet<HostSocket>) -> Result<(), Cause> {
        Ok(Host::open()?.permit(uid, sockets)?)
    }
}
