//! Everything that the reactor reads or writes, by token.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use mio::Token;

use super::client::Client;
use super::draining::Draining;
use super::forward::{self, Forward, Step};
use super::handshake::Handshake;
use super::link::Link;
use super::listening::Listening;
use super::schedule::Schedule;
use crate::Loss;
use crate::call::{Destination, ForwardRequest};
use crate::wire::intake::Turn;
use crate::wire::registration::Registration;

pub(crate) enum Socket {
    /// Guests dial it.
    Listening(Listening),
    /// Its peer is not a guest yet.
    Handshake(Handshake),
    /// Its peer is a guest.
    Guest(Link),
    /// Its peer is a client of a relay.
    Client(Client),
    /// Its peer is connected to a port of a guest.
    Forward(Forward),
    /// Its peer gets the last bytes.
    Draining(Draining),
}

impl Socket {
    /// Whether its turn comes when its guest reads again.
    pub(crate) fn is_paused(&self) -> bool {
        match self {
            Self::Client(client) => client.is_paused(),
            Self::Forward(forward) => forward.is_paused(),
            _ => false,
        }
    }
}

/// INVARIANT: the dependents of a guest are here as long as the guest is. A token keeps its place in the epoll set when its socket becomes another kind.
#[derive(Default)]
pub(crate) struct Sockets {
    map: BTreeMap<Token, Socket>,
}

impl Sockets {
    pub(crate) fn insert(&mut self, token: Token, socket: Socket) {
        self.map.insert(token, socket);
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<Socket> {
        self.map.remove(&token)
    }

    /// Removes a socket if it is of the kind; its token may have become another one's.
    fn take(&mut self, token: Token, is_kind: impl Fn(&Socket) -> bool) -> Option<Socket> {
        self.get(token).filter(|socket| is_kind(socket))?;
        self.remove(token)
    }

    pub(crate) fn get(&self, token: Token) -> Option<&Socket> {
        self.map.get(&token)
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut Socket> {
        self.map.get_mut(&token)
    }

    pub(crate) fn guests(&self) -> impl Iterator<Item = &Link> {
        self.map.values().filter_map(|socket| match socket {
            Socket::Guest(link) => Some(link),
            _ => None,
        })
    }

    pub(crate) fn listening(&mut self, token: Token) -> Option<&mut Listening> {
        match self.map.get_mut(&token) {
            Some(Socket::Listening(listening)) => Some(listening),
            _ => None,
        }
    }

    pub(crate) fn guest(&mut self, token: Token) -> Option<&mut Link> {
        match self.map.get_mut(&token) {
            Some(Socket::Guest(link)) => Some(link),
            _ => None,
        }
    }

    pub(crate) fn client(&mut self, token: Token) -> Option<&mut Client> {
        match self.map.get_mut(&token) {
            Some(Socket::Client(client)) => Some(client),
            _ => None,
        }
    }

    pub(crate) fn forward(&mut self, token: Token) -> Option<&mut Forward> {
        match self.map.get_mut(&token) {
            Some(Socket::Forward(forward)) => Some(forward),
            _ => None,
        }
    }
}

/// New dependents of guests.
impl Sockets {
    /// Begins to serve a client of a relay.
    pub(crate) fn add_client(
        &mut self,
        guest: Token,
        socket: UnixStream,
        registration: Registration,
        schedule: &mut Schedule,
    ) {
        let token = registration.token();
        let Some(link) = self.guest(guest) else {
            return;
        };
        match Client::start(socket, registration, Arc::clone(&link.connection), schedule) {
            Ok(client) => {
                link.dependents.insert(token);
                self.insert(token, Socket::Client(client));
            }
            Err(error) => log::warn!("a client cannot be served; error={error}"),
        }
    }

    /// Begins to forward a connection.
    pub(crate) fn add_forward(&mut self, request: ForwardRequest, registration: Registration) {
        let token = registration.token();
        let guest = match request.to {
            Destination::Guest(token) => Some(token),
            Destination::Listener(token) => {
                self.listening(token).and_then(|listening| listening.current())
            }
        };
        let Some(link) = guest.and_then(|guest| self.guest(guest)) else {
            return forward::fail(request);
        };
        let connection = Arc::clone(&link.connection);
        if let Some(forward) = Forward::start(request, connection, registration) {
            link.dependents.insert(token);
            self.insert(token, Socket::Forward(forward));
        }
    }
}

/// What the end or the turn of one socket means for others.
impl Sockets {
    pub(crate) fn put_handshake(&mut self, handshake: Handshake, schedule: &mut Schedule) {
        let token = handshake.token();
        schedule.set_timer(handshake.deadline(), token);
        self.insert(token, Socket::Handshake(handshake));
    }

    pub(crate) fn take_handshake(
        &mut self,
        token: Token,
        schedule: &mut Schedule,
    ) -> Option<Handshake> {
        match self.take(token, |socket| matches!(socket, Socket::Handshake(_)))? {
            Socket::Handshake(handshake) => {
                schedule.cancel_timer(handshake.deadline(), token);
                Some(handshake)
            }
            _ => None,
        }
    }

    /// Gives a turn to each dependent of a guest that was not read because the guest did not read.
    pub(crate) fn resume_dependents(&self, guest: Token, schedule: &mut Schedule) {
        let Some(Socket::Guest(link)) = self.get(guest) else {
            return;
        };
        let is_paused = |token: &Token| self.get(*token).is_some_and(Socket::is_paused);
        schedule.add_turns(link.dependents.iter().copied().filter(is_paused));
    }

    /// Ends a guest's connection, all calls on it and all its dependents.
    pub(crate) fn end_guest(&mut self, token: Token, loss: Loss, schedule: &mut Schedule) {
        let is_guest = |socket: &Socket| matches!(socket, Socket::Guest(_));
        let Some(Socket::Guest(link)) = self.take(token, is_guest) else {
            return;
        };
        if let Some(listening) = link.listener.and_then(|token| self.listening(token)) {
            listening.forget(token);
        }
        let draining = link.end(loss, schedule);
        self.drain(token, draining);
        let gone = Arc::new(Loss::GuestGone);
        for dependent in link.dependents {
            match self.remove(dependent) {
                Some(Socket::Forward(forward)) => forward.reset(&gone),
                Some(Socket::Client(client)) => {
                    let draining = client.end(&gone, schedule);
                    self.drain(dependent, draining);
                }
                _ => {}
            }
        }
    }

    pub(crate) fn finish_client_turn(
        &mut self,
        token: Token,
        turn: Result<Turn, Loss>,
        schedule: &mut Schedule,
    ) {
        match turn {
            Ok(Turn::Done) => {}
            Ok(Turn::More) => schedule.add_turn(token),
            Err(loss) => self.end_client(token, &loss, schedule),
        }
    }

    pub(crate) fn end_client(&mut self, token: Token, loss: &Loss, schedule: &mut Schedule) {
        let is_client = |socket: &Socket| matches!(socket, Socket::Client(_));
        let Some(Socket::Client(client)) = self.take(token, is_client) else {
            return;
        };
        if let Some(link) = self.guest(client.guest()) {
            link.dependents.remove(&token);
        }
        let draining = client.end(loss, schedule);
        self.drain(token, draining);
    }

    pub(crate) fn finish_forward_step(
        &mut self,
        token: Token,
        step: Step,
        schedule: &mut Schedule,
    ) {
        match step {
            Step::Wait => {}
            Step::Again => schedule.add_turn(token),
            Step::End => {
                let Some(Socket::Forward(forward)) = self.remove(token) else {
                    return;
                };
                forward.close();
                if let Some(link) = self.guest(forward.guest()) {
                    link.dependents.remove(&token);
                }
            }
        }
    }

    fn drain(&mut self, token: Token, draining: Option<Draining>) {
        if let Some(draining) = draining {
            self.insert(token, Socket::Draining(draining));
        }
    }
}
