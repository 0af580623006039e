//! The control socket: how any runner process reaches a VM that another one owns.
//!
//! A client is served as if it were talking to the guest itself, in the guest's own protocol; the
//! reactor relays. So everything that a handle on one's own VM can do works here too, with the
//! same flow control, and the owner's threads take no part in it.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use crate::error::chain;
use crate::link::Link;

/// Takes in all who wait at the socket; `false` if that failed for want of something.
pub(crate) fn accept(socket: &UnixListener, link: &Link) -> bool {
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

fn serve(client: UnixStream, link: &Link) {
    let peer = match getsockopt(&client, PeerCredentials) {
        Ok(peer) => peer,
        Err(errno) => return log::warn!("cannot tell who a client is; error={errno}"),
    };
    if peer.uid() != 0 && peer.uid() != nix::unistd::geteuid().as_raw() {
        return log::warn!("a client was turned away; uid={} pid={}", peer.uid(), peer.pid());
    }
    log::debug!("a client is served; pid={}", peer.pid());
    // A guest that is not connected just now is not waited for: this thread has a console to drain.
    let relayed = match link.guest_now() {
        Ok(guest) => guest.relay(client).map_err(crate::Error::Link),
        Err(error) => Err(error),
    };
    if let Err(error) = relayed {
        log::warn!("a client cannot be served; pid={} error={}", peer.pid(), chain(&error));
    }
}
