//! The state of a guest: what it must have before it runs a job.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// What is particular to a VM or a restore, in one message. `None` and empty fields change nothing.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GuestState {
    /// The time, in nanoseconds since 1970.
    pub clock_unix_ns: Option<u64>,
    /// Random bytes, mixed into the kernel's pool and credited.
    pub entropy: ByteBuf,
    /// The host name, also in `/etc/hostname` and `/etc/hosts`.
    pub hostname: Option<String>,
    /// An IANA time zone such as `Europe/Berlin`: `/etc/localtime` and `/etc/timezone`.
    pub timezone: Option<String>,
    /// `/etc/machine-id`.
    pub machine_id: Option<[u8; 16]>,
    /// The certificate of the proxy's authority, as PEM.
    pub authority: Option<String>,
    /// The certificates of authorities that the host's administrator added, as PEM. If there is one
    /// here or in `authority`, these two replace what was trusted before.
    pub host_authorities: Vec<String>,
}

impl fmt::Debug for GuestState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("GuestState")
            .field("clock_unix_ns", &self.clock_unix_ns)
            .field("entropy", &format_args!("{} bytes", self.entropy.len()))
            .field("hostname", &self.hostname)
            .field("timezone", &self.timezone)
            .field("has_authority", &self.authority.is_some())
            .field("host_authorities", &self.host_authorities.len())
            .finish_non_exhaustive()
    }
}
