//! The reactor's side: its thread, the sockets that it owns, and what an event at one socket means
//! for others.
//!
//! ```text
//!   Listening ─▶ Handshake ─▶ Guest ──┬── answers to calls ─▶ callers
//!                  ▲                  ├── Client      (relay)
//!     an adopted connection           └── Forward     (port)
//!                                  Guest, Client ─▶ Draining ─▶ closed
//! ```
//!
//! A socket's own state is in its module. Its methods return what the engine must do next; a
//! socket never reaches another one.

mod client;
mod draining;
mod event_loop;
mod forward;
mod handshake;
mod link;
mod listening;
mod reactor;
mod schedule;
mod socket;
mod throttle;

use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Registry, Token};
use vsock_proto::{CHUNK, Decoder, GuestBody, GuestMessage, Hello, Ready, RequestId};

use self::client::Fault;
use self::handshake::{Handshake, Origin, Progress};
use self::link::Link;
use self::listening::Listening;
pub use self::reactor::Reactor;
use self::schedule::Schedule;
use self::socket::{Socket, Sockets};
use crate::call::{Command, Connection, Delivery, Handle, Remote, Route};
use crate::wire::intake::{READS, SpareDecoder, Turn, receive};
use crate::wire::registration::Registration;
use crate::{Error, Loss};

/// The time-out of a handshake on a listener.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct Engine {
    sockets: Sockets,
    schedule: Schedule,
    remote: Remote,
    registry: Arc<Registry>,
    spare: SpareDecoder,
    /// The read buffer for forwarded connections.
    buffer: Vec<u8>,
}

impl Engine {
    fn new(registry: Registry, remote: Remote) -> Self {
        Self {
            sockets: Sockets::default(),
            schedule: Schedule::default(),
            remote,
            registry: Arc::new(registry),
            spare: SpareDecoder::default(),
            buffer: vec![0; CHUNK],
        }
    }

    fn timeout(&self) -> Option<Duration> {
        self.schedule.timeout()
    }

    fn take_turns(&mut self) {
        for token in self.schedule.take_turns() {
            self.read(token);
        }
    }

    fn read(&mut self, token: Token) {
        match self.sockets.get_mut(token) {
            Some(Socket::Guest(_)) => self.read_guest(token),
            Some(Socket::Client(client)) => {
                let turn = client.read(&mut self.spare, &mut self.schedule);
                self.sockets.finish_client_turn(token, turn, &mut self.schedule);
            }
            Some(Socket::Forward(forward)) => {
                let step = forward.read(&mut self.buffer);
                self.sockets.finish_forward_step(token, step, &mut self.schedule);
            }
            Some(Socket::Handshake(_)) => self.read_handshake(token),
            Some(Socket::Listening(_)) => self.accept(token),
            Some(Socket::Draining(_)) | None => {}
        }
    }

    fn write(&mut self, token: Token) {
        match self.sockets.get_mut(token) {
            Some(Socket::Guest(link)) => {
                if link.write(&mut self.schedule) {
                    self.sockets.resume_dependents(token, &mut self.schedule);
                }
            }
            Some(Socket::Client(client)) => {
                let turn = client.write();
                self.sockets.finish_client_turn(token, turn, &mut self.schedule);
            }
            Some(Socket::Forward(forward)) => {
                let step = forward.write();
                self.sockets.finish_forward_step(token, step, &mut self.schedule);
            }
            Some(Socket::Draining(draining)) => {
                if !draining.write(&mut self.schedule) {
                    self.sockets.remove(token);
                }
            }
            Some(Socket::Listening(_) | Socket::Handshake(_)) | None => {}
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Listen { token, socket, delivery, vm } => {
                self.listen(token, socket, delivery, vm);
            }
            Command::Unlisten(token) => self.unlisten(token),
            Command::Adopt { stream, deadline, reply } => {
                self.start_handshake(stream, deadline, Origin::Caller(reply));
            }
            Command::Close(token) => {
                self.sockets.end_guest(token, Loss::ClosedHere, &mut self.schedule)
            }
            Command::Relay { guest, client } => {
                let registration = self.new_registration();
                self.sockets.add_client(guest, client, registration, &mut self.schedule);
            }
            Command::Forward(request) => {
                let registration = self.new_registration();
                self.sockets.add_forward(request, registration);
            }
            Command::WatchPorts { listener, watch } => {
                if let Some(listening) = self.sockets.listening(listener) {
                    listening.watch_ports(watch);
                }
            }
            Command::Stop => {}
            #[cfg(test)]
            Command::Panic => panic!("asked to"),
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(token) = self.schedule.take_expired(now) {
            match self.sockets.get_mut(token) {
                Some(Socket::Handshake(_)) => self.time_out_handshake(token),
                Some(Socket::Client(_)) => {
                    self.sockets.end_client(token, &Loss::Silent, &mut self.schedule)
                }
                Some(Socket::Draining(draining)) => {
                    draining.close();
                    self.sockets.remove(token);
                }
                Some(Socket::Listening(listening)) => {
                    listening.report_suppressed();
                    self.accept(token);
                }
                Some(Socket::Guest(_) | Socket::Forward(_)) | None => {}
            }
        }
    }

    /// A place in the epoll set for a new socket.
    fn new_registration(&self) -> Registration {
        Registration::new(&self.registry, self.remote.next_token())
    }
}

/// Listeners and handshakes.
impl Engine {
    fn listen(&mut self, token: Token, socket: UnixListener, delivery: Delivery, vm: String) {
        let registration = Registration::new(&self.registry, token);
        if let Some(listening) = Listening::start(socket, registration, delivery, vm) {
            self.sockets.insert(token, Socket::Listening(listening));
        }
    }

    fn unlisten(&mut self, token: Token) {
        let Some(Socket::Listening(listening)) = self.sockets.remove(token) else {
            return;
        };
        for token in listening.stop() {
            drop(self.sockets.take_handshake(token, &mut self.schedule));
        }
    }

    /// Accepts all pending connections.
    fn accept(&mut self, token: Token) {
        while let Some(listening) = self.sockets.listening(token)
            && let Some(stream) = listening.accept(&mut self.schedule)
        {
            if let Some(surplus) = listening.surplus_handshake() {
                self.time_out_handshake(surplus);
            }
            let deadline = Instant::now() + HANDSHAKE_LIMIT;
            self.start_handshake(stream, deadline, Origin::Listener(token));
        }
    }

    fn start_handshake(&mut self, stream: UnixStream, deadline: Instant, origin: Origin) {
        let handshake = Handshake::new(stream, self.new_registration(), deadline, origin);
        if let Some(listening) = self.listening_of(&handshake) {
            listening.begin_handshake(handshake.token());
        }
        if let Err(error) = handshake.register() {
            return self.reject(handshake, error);
        }
        self.sockets.put_handshake(handshake, &mut self.schedule);
    }

    fn read_handshake(&mut self, token: Token) {
        let Some(mut handshake) = self.sockets.take_handshake(token, &mut self.schedule) else {
            return;
        };
        let listening = self.listening_of(&handshake);
        match handshake.advance(listening.as_deref()) {
            Ok(Progress::Waiting(turn)) => {
                if let Some(listening) = listening {
                    listening.awaits(handshake.phase());
                }
                if turn == Turn::More {
                    self.schedule.add_turn(token);
                }
                self.sockets.put_handshake(handshake, &mut self.schedule);
            }
            Ok(Progress::Complete(hello, ready)) => self.establish(handshake, hello, ready),
            Err(error) => self.reject(handshake, error),
        }
    }

    /// Makes a peer that is ready a guest.
    fn establish(&mut self, handshake: Handshake, hello: Hello, ready: Ready) {
        let token = handshake.token();
        let listener = handshake.listener();
        let (connection, decoder, origin) = handshake.complete(hello, ready);
        let connection = Arc::new(connection);
        let guest = Handle { connection: Arc::clone(&connection), remote: self.remote.clone() };
        let link = Link::new(Arc::clone(&connection), decoder, listener);
        self.sockets.insert(token, Socket::Guest(link));
        // The first turn takes what came right behind the handshake.
        self.schedule.add_turn(token);
        match origin {
            // If the caller is gone, then the guest is closed by being dropped.
            Origin::Caller(reply) => drop(reply.send(Ok(guest))),
            Origin::Listener(listener) => {
                let Some(listening) = self.sockets.listening(listener) else {
                    return;
                };
                listening.end_handshake(token);
                if let Some(older) = listening.replace_current(connection) {
                    self.sockets.end_guest(older, Loss::Replaced, &mut self.schedule);
                }
                if let Some(listening) = self.sockets.listening(listener) {
                    listening.deliver(guest);
                }
            }
        }
    }

    fn time_out_handshake(&mut self, token: Token) {
        if let Some(handshake) = self.sockets.take_handshake(token, &mut self.schedule) {
            let error = handshake.timeout();
            self.reject(handshake, error);
        }
    }

    fn reject(&mut self, handshake: Handshake, error: Error) {
        let listener = handshake.listener();
        let listening = listener.and_then(|listener| self.sockets.listening(listener));
        handshake.reject(error, listening, &mut self.schedule);
    }

    fn listening_of(&mut self, handshake: &Handshake) -> Option<&mut Listening> {
        handshake.listener().and_then(|listener| self.sockets.listening(listener))
    }
}

/// Guests.
impl Engine {
    /// Gives a guest its turn.
    fn read_guest(&mut self, token: Token) {
        let Some(link) = self.sockets.guest(token) else {
            return;
        };
        let connection = Arc::clone(&link.connection);
        let mut decoder = self.spare.borrow(&mut link.decoder);
        let turn = self.read_messages(&connection, &mut decoder);
        let Some(link) = self.sockets.guest(token) else {
            return;
        };
        self.spare.give_back(decoder, &mut link.decoder);
        match turn.and_then(|turn| link.finish_turn(turn)) {
            Ok(Turn::Done) => {}
            Ok(Turn::More) => self.schedule.add_turn(token),
            Err(loss) => self.sockets.end_guest(token, loss, &mut self.schedule),
        }
    }

    fn read_messages(
        &mut self,
        connection: &Connection,
        decoder: &mut Decoder,
    ) -> Result<Turn, Loss> {
        for _ in 0..READS {
            while let Some(GuestMessage { id, body }) = decoder.next()? {
                self.route(connection, id, body)?;
            }
            if !receive(&connection.socket, decoder)? {
                return Ok(Turn::Done);
            }
        }
        Ok(Turn::More)
    }

    /// Passes an answer on. One to a request that has ended, or never was, is ignored.
    fn route(
        &mut self,
        connection: &Connection,
        id: RequestId,
        body: GuestBody<'_>,
    ) -> Result<(), Loss> {
        let is_final = body.is_final();
        match connection.route(id) {
            Some(Route::Call(request)) => {
                // In this order: if the answer is a breach, then the request has to learn of the loss.
                request.deliver(body)?;
                if is_final {
                    connection.remove_route(id);
                }
            }
            Some(Route::Client(token, client_id)) => {
                if is_final {
                    connection.remove_route(id);
                }
                match self.sockets.client(token).map(|client| client.relay_answer(client_id, body))
                {
                    None | Some(Ok(())) => {}
                    Some(Err(Fault::Guest(loss))) => return Err(loss),
                    Some(Err(Fault::Client(loss))) => {
                        self.sockets.end_client(token, &loss, &mut self.schedule)
                    }
                }
            }
            Some(Route::Forward(token)) => {
                if let Some(forward) = self.sockets.forward(token) {
                    let step = forward.handle_answer(body)?;
                    self.sockets.finish_forward_step(token, step, &mut self.schedule);
                }
            }
            Some(Route::Ports(listener)) => {
                if let Some(listening) = self.sockets.listening(listener) {
                    listening.handle_ports(id, &body);
                }
            }
            None => {}
        }
        Ok(())
    }
}

/// Ends every wait, even if the thread panics.
impl Drop for Engine {
    fn drop(&mut self) {
        let is_panic = std::thread::panicking();
        for link in self.sockets.guests() {
            let connection = &link.connection;
            connection.fail(if is_panic { Loss::Panicked } else { Loss::Stopped });
            // Handles may keep the socket itself; fails only if the peer is gone.
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
    }
}
