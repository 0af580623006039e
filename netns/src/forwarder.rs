//! Forwards traffic between VMs and the host in this process: DNS queries, published ports, and
//! services of the host. It needs no rule on the host and leaves nothing behind.
//!
//! ```text
//!  guest ── 192.168.241.1:53 ──▶ sockets in the namespace ─┐
//!           192.168.241.1:8700 ─▶ socket in the namespace ──┤ ──▶ a service of the host
//!                                                          │ thread `forwarder` ──▶ the host's DNS servers
//!  host's user ── 127.0.0.1:8080 ──▶ socket of the host ───┘ ──▶ socket in the namespace ──▶ guest
//! ```
//!
//! One thread serves all VMs of the process. It sleeps in `mio::Poll`.
//!
//! | file | content |
//! |---|---|
//! | `handle.rs` | requests to the thread |
//! | `reactor.rs` | the thread: its forwarders, and the loop |
//! | `context.rs` | which socket belongs to which forwarder |
//! | `dns.rs` | DNS queries |
//! | `hosts.rs` | hosts of a policy: their addresses are opened when they are resolved |
//! | `tcp.rs` | a published port, or a port of the gateway |
//! | `drops.rs` | reports of dropped packets |
//! | `acceptor.rs` | a listening socket |
//! | `pair.rs` | two connections that are forwarded to each other |
//! | `question.rs` | DNS messages |
//! | `resolv_conf.rs` | the host's DNS servers |

mod acceptor;
mod context;
mod dns;
mod drops;
mod handle;
mod hosts;
mod pair;
mod question;
mod reactor;
mod resolv_conf;
mod tcp;

use std::path::PathBuf;
use std::thread::JoinHandle;

use mio::Poll;

pub(crate) use self::handle::{Forwarding, Handle, Target};
pub use self::handle::{GuestPorts, ListenerCallback};
pub(crate) use self::hosts::Hosts;
use crate::{Error, Result};

/// The owner of the thread. Dropping it ends every forwarding.
#[derive(Debug)]
pub(crate) struct Forwarder {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Starts the thread. `resolv_conf` names the host's DNS servers.
    pub(crate) fn start(resolv_conf: PathBuf) -> Result<Self> {
        let poll = Poll::new().map_err(|source| Error::Poll { source })?;
        let (handle, requests) = Handle::new(poll.registry())?;
        let run = move || reactor::run(poll, &requests, resolv_conf);
        let thread = base::thread::spawn("forwarder", run);
        let thread = thread.map_err(|source| Error::Thread { name: handle::THREAD, source })?;
        Ok(Self { handle, thread: Some(thread) })
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            base::thread::join(thread);
        }
    }
}
