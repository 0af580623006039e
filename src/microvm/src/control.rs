//! The control socket, through which other runner processes reach a VM.
//!
//! A client speaks the guest's own protocol; the reactor relays its frames to the guest. A client can
//! therefore do whatever the owner can, with the same flow control, without the owner's threads.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use base::error::chain;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::link::GuestLink;

/// Accepts all pending clients; `false` after an error.
pub(crate) fn accept(socket: &UnixListener, link: &GuestLink) -> bool {
    loop {
        match socket.accept() {
            Ok((client, _)) => serve(client, link),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) => {
                log::warn!("cannot accept a client; error={error}");
                return false;
            }
        }
    }
}

fn serve(client: UnixStream, link: &GuestLink) {
    let peer = match getsockopt(&client, PeerCredentials) {
        Ok(peer) => peer,
        Err(errno) => return log::warn!("cannot read a client's credentials; error={errno}"),
    };
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        return log::warn!("a client was rejected; uid={} pid={}", peer.uid(), peer.pid());
    }
    log::debug!("a client is served; pid={}", peer.pid());
    // Does not wait for a guest that is not connected: this thread drains the console.
    let relayed = match link.guest_now() {
        Ok(guest) => guest.relay(client).map_err(crate::Error::Link),
        Err(error) => Err(error),
    };
    if let Err(error) = relayed {
        log::warn!("a client cannot be served; pid={} error={}", peer.pid(), chain(&error));
    }
}
