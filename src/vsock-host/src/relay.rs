//! The relay: serves a client as if it were connected to the guest itself.
//!
//! ```text
//!   client                reactor                              guest
//!     ◀─ Hello, Ready ──    greets with the guest's boot id
//!     ── request 1 ─────▶   1 becomes 17, if there is room   ─▶
//!     ◀─ answer to 1 ────   17 becomes 1                     ◀─
//!     ── Credit ────────▶   checked, passed on               ─▶
//!     gone                  Cancel for each of its requests  ─▶
//! ```
//!
//! Flow control is from end to end: the client's credit lets the guest send, the guest's credit
//! lets the client send, and the relay only checks that both keep to it.
//!
//! INVARIANT: a client that does not read buffers at most its requests' windows and
//! [`BACKLOG`](crate::client::BACKLOG), and delays no other peer. A client is not read while its
//! guest does not read.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use mio::Token;
use vsock_proto::HostBody;

use crate::Loss;
use crate::client::Client;
use crate::engine::Engine;
use crate::intake::{Turn, borrow, give_back};

/// The time-out of a client's answer to the hello.
const LIMIT: Duration = Duration::from_secs(10);

impl Engine {
    pub(crate) fn relay(&mut self, guest: Token, socket: UnixStream) {
        let Some(link) = self.guests.get(&guest) else {
            return;
        };
        let token = self.remote.next_token();
        let deadline = Instant::now() + LIMIT;
        let mut client = Client::new(socket, self.watch(token), guest, deadline);
        if let Err(error) = client.greet(&link.connection) {
            return log::warn!("a client cannot be served; error={error}");
        }
        self.timers.insert((deadline, token));
        self.clients.insert(token, client);
    }

    /// Gives a client its turn.
    pub(crate) fn read_client(&mut self, token: Token) {
        let Some(mut client) = self.clients.remove(&token) else {
            return;
        };
        let greeting = client.greeting;
        let mut decoder = borrow(&mut client.decoder, &mut self.spare);
        let turn = match self.guests.get_mut(&client.guest()) {
            Some(link) => client.hear(token, link, &mut decoder),
            None => Err(Loss::GuestGone),
        };
        give_back(decoder, &mut client.decoder, &mut self.spare);
        if let (Some(deadline), None) = (greeting, client.greeting) {
            self.timers.remove(&(deadline, token));
        }
        match turn {
            Ok(turn) => {
                self.clients.insert(token, client);
                if turn == Turn::More {
                    self.unfinished.insert(token);
                }
            }
            Err(loss) => self.end_client(token, client, loss),
        }
    }

    pub(crate) fn write_client(&mut self, token: Token) {
        let Some(client) = self.clients.get_mut(&token) else {
            return;
        };
        match client.drain() {
            Ok(()) if client.is_resumable() => {
                self.unfinished.insert(token);
            }
            Ok(()) => {}
            Err(loss) => {
                if let Some(client) = self.clients.remove(&token) {
                    self.end_client(token, client, loss);
                }
            }
        }
    }

    /// Ends a client that is out of the map already: cancels its requests, sends it the rest.
    pub(crate) fn end_client(&mut self, token: Token, client: Client, loss: Loss) {
        log::debug!("a client's connection ends; reason={loss}");
        if let Some(deadline) = client.greeting {
            self.timers.remove(&(deadline, token));
        }
        if let Some(link) = self.guests.get_mut(&client.guest()) {
            for request in client.requests.values() {
                link.relayed.remove(&request.id);
                // One for each request; if the guest is gone, then so are the requests.
                let _ = link.connection.send_now(request.id, HostBody::Cancel);
            }
        }
        self.drain(client.socket, client.registration, client.buffer);
    }
}
