//! A socket that a guest dials, and the live guest of it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::Token;
use vsock_proto::{GuestBody, HostBody, LinkSecret, RequestId, WatchPorts};

use super::schedule::Schedule;
use super::throttle::Throttle;
use crate::call::{Connection, Delivery, Handle, PortWatch, Route};
use crate::wire::registration::Registration;
use crate::{Error, Phase};

/// The wait before another attempt to accept.
const RETRY: Duration = Duration::from_secs(1);

/// The limit of concurrent handshakes on one listener. The newest replaces the oldest, so that
/// silent peers do not keep the guest's service out.
const PENDING: usize = 16;

pub(crate) struct Listening {
    socket: UnixListener,
    registration: Registration,
    delivery: Delivery,
    /// The VM's name, for warnings.
    vm: String,
    /// The secret: the guest's service gets it in its first welcome and sends it in later hellos.
    secret: LinkSecret,
    /// Whether a service has it.
    is_claimed: bool,
    rejections: Throttle,
    /// Handshakes under way. Tokens count up: the first is the oldest.
    handshakes: BTreeSet<Token>,
    /// The live guest.
    current: Option<Arc<Connection>>,
    /// The ports that the guest must watch; sent again after it reconnects.
    ports: Option<PortWatch>,
    /// The request that makes the live guest watch ports.
    watch: Option<RequestId>,
}

impl Listening {
    /// Starts accepting guests; on failure the caller gets the error, and there is no listener.
    pub(crate) fn start(
        socket: UnixListener,
        registration: Registration,
        delivery: Delivery,
        vm: String,
    ) -> Option<Self> {
        let prepared = || -> io::Result<LinkSecret> {
            registration.register(&socket)?;
            Ok(LinkSecret(base::random::bytes().map_err(io::Error::other)?))
        };
        let secret = match prepared() {
            Ok(secret) => secret,
            Err(source) => {
                delivery.put(Err(Error::Adopt { source }));
                return None;
            }
        };
        Some(Self {
            socket,
            registration,
            delivery,
            vm,
            secret,
            is_claimed: false,
            rejections: Throttle::new(Instant::now()),
            handshakes: BTreeSet::new(),
            current: None,
            ports: None,
            watch: None,
        })
    }

    /// Stops accepting guests; returns the handshakes under way.
    pub(crate) fn stop(mut self) -> BTreeSet<Token> {
        self.report_suppressed();
        self.registration.forget(&self.socket);
        self.handshakes
    }

    pub(crate) fn secret(&self) -> LinkSecret {
        self.secret
    }

    /// Whether a hello may come from the guest's service.
    pub(crate) fn admits(&self, shown: Option<LinkSecret>) -> bool {
        !self.is_claimed || shown == Some(self.secret)
    }

    /// The token of the live guest.
    pub(crate) fn current(&self) -> Option<Token> {
        self.current.as_ref().map(|connection| connection.token())
    }

    /// The next pending connection.
    pub(crate) fn accept(&mut self, schedule: &mut Schedule) -> Option<UnixStream> {
        loop {
            let stream = match self.socket.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // No event tells when there are descriptors again.
                    log::warn!("cannot accept a guest, try again soon; error={error}");
                    schedule.set_timer(Instant::now() + RETRY, self.registration.token());
                    return None;
                }
            };
            match stream.set_nonblocking(true) {
                Ok(()) => return Some(stream),
                Err(source) => self.warn(&Error::Adopt { source }, schedule),
            }
        }
    }

    /// The oldest handshake, if another one would exceed the limit.
    pub(crate) fn surplus_handshake(&self) -> Option<Token> {
        self.handshakes.first().copied().filter(|_| self.handshakes.len() >= PENDING)
    }

    pub(crate) fn begin_handshake(&mut self, token: Token) {
        self.handshakes.insert(token);
        self.delivery.awaits(Phase::Hello);
    }

    /// Records the step of a handshake, for the error of a time-out.
    pub(crate) fn awaits(&self, phase: Phase) {
        self.delivery.awaits(phase);
    }

    pub(crate) fn end_handshake(&mut self, token: Token) {
        self.handshakes.remove(&token);
    }

    /// Makes a guest the live one; returns the token of the one before.
    pub(crate) fn replace_current(&mut self, connection: Arc<Connection>) -> Option<Token> {
        self.is_claimed = true;
        self.watch = None;
        self.current.replace(connection).map(|older| older.token())
    }

    /// Delivers the live guest to the caller, and makes it watch the ports.
    pub(crate) fn deliver(&mut self, guest: Handle) {
        self.delivery.put(Ok(guest));
        self.renew_port_watch();
    }

    /// Records that a connection has ended.
    pub(crate) fn forget(&mut self, token: Token) {
        if self.current() == Some(token) {
            (self.current, self.watch) = (None, None);
        }
    }

    /// Reports a rejected connection. The first service's protocol version is an error for the
    /// caller. Later, any process of the guest may claim a version: that is logged like the others.
    pub(crate) fn report_rejection(&mut self, error: Error, schedule: &mut Schedule) {
        self.delivery.awaits(Phase::Dial);
        let is_version =
            matches!(error, Error::Hello { source: vsock_proto::Error::Version { .. } });
        if is_version && !self.is_claimed {
            self.delivery.put(Err(error));
        } else {
            self.warn(&error, schedule);
        }
    }

    /// Logs how many warnings were withheld.
    pub(crate) fn report_suppressed(&mut self) {
        if let Some(suppressed) = self.rejections.report() {
            let vm = &self.vm;
            log::warn!("connections to the guest link were refused; vm={vm} count={suppressed}");
        }
    }

    /// Makes the live guest watch ports, and each later one.
    pub(crate) fn watch_ports(&mut self, watch: PortWatch) {
        self.ports = Some(watch);
        self.renew_port_watch();
    }

    /// Handles the guest's answer to the request to watch ports.
    pub(crate) fn handle_ports(&mut self, id: RequestId, body: &GuestBody<'_>) {
        let GuestBody::Listening(listening) = body else {
            // Any other answer ends the request.
            if let Some(connection) = &self.current {
                connection.remove_route(id);
            }
            self.watch.take_if(|watch| *watch == id);
            return;
        };
        if let Some(watch) = &self.ports {
            let has_listener = |port: &u16| listening.ports.contains(port);
            let ports: Vec<u16> = watch.ports.iter().copied().filter(has_listener).collect();
            (watch.notify)(&ports);
        }
    }

    /// Makes the live guest watch exactly the listener's ports.
    fn renew_port_watch(&mut self) {
        let Some(connection) = &self.current else {
            return;
        };
        if let Some(id) = self.watch.take() {
            connection.cancel(id);
        }
        if let Some(watch) = self.ports.as_ref().filter(|watch| !watch.ports.is_empty()) {
            let route = Route::Ports(self.registration.token());
            let request = HostBody::WatchPorts(WatchPorts { ports: watch.ports.clone() });
            // A lost guest gets the request again when it has reconnected.
            self.watch = connection.start(route, request).ok();
        }
    }

    /// Logs a rejected connection, within a rate limit.
    fn warn(&mut self, error: &Error, schedule: &mut Schedule) {
        if self.rejections.permits(Instant::now()) {
            let (vm, error) = (&self.vm, base::error::chain(error));
            log::warn!("a connection to the guest link is refused; vm={vm} error={error}");
        } else if let Some(due) = self.rejections.due() {
            schedule.set_timer(due, self.registration.token());
        }
    }
}
