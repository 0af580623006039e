//! The kernel's filter that keeps proxies from connecting to the host's addresses.

use std::collections::BTreeSet;

use sandbox::{Cause, HostFilter, HostSocket};

use crate::host::Host;

/// The filter in the host's table, in the namespace of the calling thread. It matches the user IDs of
/// proxies. It exists as long as the table; this sets its exceptions.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProxyFilter;

impl HostFilter for ProxyFilter {
    fn permit(&self, uid: u32, sockets: &BTreeSet<HostSocket>) -> Result<(), Cause> {
        Ok(Host::open()?.permit(uid, sockets)?)
    }
}
