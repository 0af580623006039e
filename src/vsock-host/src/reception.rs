//! The listening sockets, and the live guest of each.

use std::io;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use mio::Token;
use vsock_proto::LinkSecret;

use crate::engine::Engine;
use crate::handshake::{Handshake, Origin};
use crate::listener::Delivery;
use crate::ports::PortWatch;
use crate::registration::Registration;
use crate::throttle::Throttle;
use crate::{Error, Guest, Loss, Phase};

/// The time-out of a handshake on a listener.
const LIMIT: Duration = Duration::from_secs(10);

/// The wait before another attempt to accept.
const RETRY: Duration = Duration::from_secs(1);

/// The limit of concurrent handshakes on one listener. The newest replaces the oldest, so that
/// silent peers do not keep the guest's service out.
const PENDING: usize = 16;

/// A socket that a guest dials.
pub(crate) struct Listening {
    socket: UnixListener,
    registration: Registration,
    pub(crate) delivery: Delivery,
    /// The VM's name, for warnings.
    vm: String,
    /// The secret: the guest's service gets it in its first welcome and sends it in later hellos.
    secret: LinkSecret,
    /// Whether a service has it.
    is_claimed: bool,
    refusals: Throttle,
    /// The ports that the guest must watch; sent again after it reconnects.
    pub(crate) ports: Option<PortWatch>,
    /// The live connection.
    current: Option<Token>,
}

impl Listening {
    pub(crate) fn current(&self) -> Option<Token> {
        self.current
    }

    pub(crate) fn secret(&self) -> LinkSecret {
        self.secret
    }

    /// Whether a hello may come from the guest's service.
    pub(crate) fn admits(&self, shown: Option<LinkSecret>) -> bool {
        !self.is_claimed || shown == Some(self.secret)
    }

    /// Whether no guest has been ready here yet.
    pub(crate) fn is_unclaimed(&self) -> bool {
        !self.is_claimed
    }
}

impl Engine {
    pub(crate) fn listen(
        &mut self,
        token: Token,
        socket: UnixListener,
        delivery: Delivery,
        vm: String,
    ) {
        let registration = self.watch(token);
        if let Err(source) = registration.register(&socket) {
            return delivery.put(Err(Error::Adopt { source }));
        }
        let secret = match base::random::bytes() {
            Ok(secret) => LinkSecret(secret),
            Err(error) => {
                return delivery.put(Err(Error::Adopt { source: io::Error::other(error) }));
            }
        };
        let listening = Listening {
            socket,
            registration,
            delivery,
            vm,
            secret,
            is_claimed: false,
            refusals: Throttle::new(Instant::now()),
            ports: None,
            current: None,
        };
        self.listeners.insert(token, listening);
    }

    pub(crate) fn unlisten(&mut self, token: Token) {
        self.report_refusals(token);
        if let Some(listening) = self.listeners.remove(&token) {
            listening.registration.forget(&listening.socket);
        }
        let is_other = |handshake: &Handshake| !handshake.is_from(token);
        self.timers.retain(|(_, of)| self.handshakes.get(of).is_none_or(is_other));
        self.handshakes.retain(|_, handshake| is_other(handshake));
    }

    /// Accepts all pending connections.
    pub(crate) fn accept(&mut self, token: Token) {
        while let Some(listening) = self.listeners.get(&token) {
            let stream = match listening.socket.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // No event tells when there are descriptors again.
                    log::warn!("cannot accept a guest, try again soon; error={error}");
                    self.timers.insert((Instant::now() + RETRY, token));
                    return;
                }
            };
            if let Err(source) = stream.set_nonblocking(true) {
                self.warn_of_refusal(token, &format_args!("cannot set it up: {source}"));
                continue;
            }
            self.make_room(token);
            let Some(listening) = self.listeners.get(&token) else {
                return;
            };
            listening.delivery.awaits(Phase::Hello);
            self.greet(stream, Instant::now() + LIMIT, Origin::Listener(token));
        }
    }

    /// Ends the oldest handshake of a listener that is at its limit.
    fn make_room(&mut self, listener: Token) {
        let mut pending = self.handshakes.iter().filter(|(_, one)| one.is_from(listener));
        // Tokens count up: the first is the oldest.
        let Some(oldest) = pending.next().map(|(token, _)| *token) else {
            return;
        };
        if 1 + pending.count() >= PENDING
            && let Some(handshake) = self.handshakes.remove(&oldest)
        {
            self.timers.remove(&(handshake.deadline(), oldest));
            self.give_up(handshake);
        }
    }

    /// Logs a rejected connection, within a rate limit.
    pub(crate) fn warn_of_refusal(&mut self, token: Token, why: &dyn std::fmt::Display) {
        let Some(listening) = self.listeners.get_mut(&token) else {
            return;
        };
        if listening.refusals.permits(Instant::now()) {
            log::warn!(
                "a connection to the guest link is refused; vm={} error={why}",
                listening.vm
            );
        } else if let Some(due) = listening.refusals.due() {
            self.timers.insert((due, token));
        }
    }

    /// Logs how many warnings were withheld.
    pub(crate) fn report_refusals(&mut self, token: Token) {
        if let Some(listening) = self.listeners.get_mut(&token)
            && let Some(suppressed) = listening.refusals.report()
        {
            let vm = &listening.vm;
            log::warn!("connections to the guest link were refused; vm={vm} count={suppressed}");
        }
    }

    /// Records that a connection has ended.
    pub(crate) fn forget_current(&mut self, token: Token) {
        for listening in self.listeners.values_mut() {
            listening.current.take_if(|current| *current == token);
        }
    }

    /// Makes a guest the live one.
    pub(crate) fn replace(&mut self, listener: Token, token: Token, guest: Guest) {
        let Some(listening) = self.listeners.get_mut(&listener) else {
            return;
        };
        listening.is_claimed = true;
        if let Some(older) = listening.current.replace(token) {
            self.end_guest(older, Loss::Replaced);
        }
        if let Some(listening) = self.listeners.get(&listener) {
            listening.delivery.put(Ok(guest));
        }
        self.renew_port_watch(listener);
    }
}
