//! The reactor's thread: everything that it owns, and its loop.
//!
//! 1. Sleep until a socket, a command or a timer is ready. Do not sleep if a turn was cut short.
//! 2. Read and write the sockets that are ready.
//! 3. Carry out commands.
//! 4. Give another turn to peers that had more than fits in one.
//! 5. Close connections whose deadline has passed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::{Events, Poll, Registry, Token};
use vsock_proto::{CHUNK, Decoder};

use crate::client::Client;
use crate::draining::Draining;
use crate::forward::Forward;
use crate::handshake::Handshake;
use crate::link::Link;
use crate::reception::Listening;
use crate::registration::Registration;
use crate::remote::{Command, Remote, WAKER};
use crate::{Error, Loss, Result};

const EVENTS: usize = 256;

/// The longest sleep: mio counts milliseconds in 32 bits.
const SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// INVARIANT: a token is in at most one of the maps, and in `timers` if its entry there has a
/// deadline. Without timers and unfinished turns the thread sleeps for ever.
pub(crate) struct Engine {
    pub(crate) remote: Remote,
    pub(crate) listeners: BTreeMap<Token, Listening>,
    pub(crate) handshakes: BTreeMap<Token, Handshake>,
    pub(crate) guests: BTreeMap<Token, Link>,
    pub(crate) clients: BTreeMap<Token, Client>,
    pub(crate) forwards: BTreeMap<Token, Forward>,
    /// The read buffer for forwarded connections.
    pub(crate) buffer: Vec<u8>,
    pub(crate) draining: BTreeMap<Token, Draining>,
    pub(crate) timers: BTreeSet<(Instant, Token)>,
    /// Tokens of peers that may have more to read than fit in their turn.
    pub(crate) unfinished: BTreeSet<Token>,
    /// The decoder for a peer that has no partial message.
    pub(crate) spare: Option<Decoder>,
    poll: Poll,
    registry: Arc<Registry>,
    commands: Receiver<Command>,
}

impl Engine {
    pub(crate) fn new(poll: Poll, remote: Remote, commands: Receiver<Command>) -> io::Result<Self> {
        let registry = Arc::new(poll.registry().try_clone()?);
        Ok(Self {
            remote,
            listeners: BTreeMap::new(),
            handshakes: BTreeMap::new(),
            guests: BTreeMap::new(),
            clients: BTreeMap::new(),
            forwards: BTreeMap::new(),
            buffer: vec![0; CHUNK],
            draining: BTreeMap::new(),
            timers: BTreeSet::new(),
            unfinished: BTreeSet::new(),
            spare: None,
            poll,
            registry,
            commands,
        })
    }

    pub(crate) fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            // 1 Sleep.
            let timeout = self.timeout();
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(Error::Wait { source }),
            }
            // 2 Sockets.
            for event in &events {
                let is_only_writable =
                    event.is_writable() && !event.is_readable() && !event.is_error();
                if event.is_writable() {
                    self.write(event.token());
                }
                if !is_only_writable && event.token() != WAKER {
                    self.read(event.token());
                }
            }
            // 3 Commands.
            while let Ok(command) = self.commands.try_recv() {
                if matches!(command, Command::Stop) {
                    return Ok(());
                }
                self.handle_command(command);
            }
            // 4 Turns.
            for token in std::mem::take(&mut self.unfinished) {
                self.read(token);
            }
            // 5 Timers.
            self.expire();
        }
    }

    /// A place in the epoll set for a new socket.
    pub(crate) fn watch(&self, token: Token) -> Registration {
        Registration::new(&self.registry, token)
    }

    fn timeout(&self) -> Option<Duration> {
        if !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        let (next, _) = self.timers.first()?;
        Some(next.saturating_duration_since(Instant::now()).min(SLEEP))
    }

    fn read(&mut self, token: Token) {
        if self.guests.contains_key(&token) {
            self.read_guest(token);
        } else if self.clients.contains_key(&token) {
            self.read_client(token);
        } else if self.forwards.contains_key(&token) {
            self.read_forward(token);
        } else if self.handshakes.contains_key(&token) {
            self.read_handshake(token);
        } else if self.listeners.contains_key(&token) {
            self.accept(token);
        }
    }

    fn write(&mut self, token: Token) {
        if self.guests.contains_key(&token) {
            self.write_guest(token);
        } else if self.clients.contains_key(&token) {
            self.write_client(token);
        } else if self.forwards.contains_key(&token) {
            self.write_forward(token);
        } else if self.draining.contains_key(&token) {
            self.write_draining(token);
        }
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Listen { token, socket, delivery, vm } => {
                self.listen(token, socket, delivery, vm);
            }
            Command::Unlisten(token) => self.unlisten(token),
            Command::Adopt { stream, deadline, reply } => self.adopt(stream, deadline, reply),
            Command::Close(token) => self.end_guest(token, Loss::ClosedHere),
            Command::Relay { guest, client } => self.relay(guest, client),
            Command::Forward(request) => self.forward(request),
            Command::WatchPorts { listener, watch } => self.watch_ports(listener, watch),
            Command::Stop => {}
            #[cfg(test)]
            Command::Panic => panic!("asked to"),
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while let Some(&(at, token)) = self.timers.first()
            && at <= now
        {
            self.timers.remove(&(at, token));
            if let Some(handshake) = self.handshakes.remove(&token) {
                self.give_up(handshake);
            } else if let Some(client) = self.clients.remove(&token) {
                self.end_client(token, client, Loss::Silent);
            } else if let Some(draining) = self.draining.remove(&token) {
                draining.end();
            } else if self.listeners.contains_key(&token) {
                self.report_refusals(token);
                self.accept(token);
            }
        }
    }
}

/// Ends every wait, even if the thread panics.
impl Drop for Engine {
    fn drop(&mut self) {
        let is_panic = std::thread::panicking();
        for link in self.guests.values() {
            let connection = &link.connection;
            connection.fail(if is_panic { Loss::Panicked } else { Loss::Stopped });
            // Handles may keep the socket itself; fails only if the peer is gone.
            let _ = connection.socket.shutdown(Shutdown::Both);
        }
    }
}
