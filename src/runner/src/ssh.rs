//! SSH to a VM over the guest link: no port is opened, and the VM needs no network.
//!
//! ```text
//!  ssh web.vm ──ProxyCommand──▶ runner ssh-proxy web.vm ──guest link──▶ sshd -i
//!   └─KnownHostsCommand──▶ runner ssh-host-key web.vm ──guest link──▶ the VM's host key
//! ```
//!
//! Each VM has a host key of its own, made in the VM. The client trusts it because it arrives over the guest link.
//! One key of the state folder authenticates the client. The runner's files in the VM are in `/run/runner-ssh`.

mod client;
mod error;
mod server;

pub(crate) use client::Client;
pub(crate) use error::Error;
pub(crate) use server::Server;

/// The suffix of host names that stand for VMs.
pub(crate) const SUFFIX: &str = ".vm";

/// The VM that a host name stands for.
pub(crate) fn vm_of(host: &str) -> &str {
    host.strip_suffix(SUFFIX).unwrap_or(host)
}
