//! The thread that passes things on.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::event::Source;
use mio::{Events, Interest, Poll, Registry, Token};

use super::Request;
use super::drops::Drops;
use super::name::Names;
use super::port::{Guest, Port};
use super::stream::BUFFER;

/// Somebody has asked for something.
pub(super) const WAKER: Token = Token(0);

/// Something that is passed on.
enum Service {
    Names(Names),
    Port(Port),
    Drops(Drops),
}

/// What a service needs from the thread.
pub(super) struct Context<'a> {
    registry: &'a Registry,
    sockets: &'a mut Sockets,
    /// Which service this is.
    service: u64,
    /// For whatever is read next.
    pub(super) buffer: &'a mut [u8],
    /// Where the host's name servers are named.
    pub(super) resolv_conf: &'a Path,
}

/// Which socket belongs to which service.
#[derive(Default)]
struct Sockets {
    last: usize,
    owners: HashMap<Token, u64>,
    /// Those that are ready still.
    again: Vec<Token>,
}

/// The thread's own.
struct Reactor {
    poll: Poll,
    services: BTreeMap<u64, Service>,
    last: u64,
    sockets: Sockets,
    buffer: Vec<u8>,
    resolv_conf: PathBuf,
}

/// Passes on until it is told to stop.
pub(super) fn run(poll: Poll, requests: &Receiver<Request>, resolv_conf: PathBuf) {
    let (services, sockets, buffer) = (BTreeMap::new(), Sockets::default(), vec![0; BUFFER]);
    let mut reactor = Reactor { poll, services, last: 0, sockets, buffer, resolv_conf };
    let mut events = Events::with_capacity(256);
    loop {
        if let Err(error) = reactor.sleep(&mut events) {
            log::error!("nothing is passed on any more; error={error}");
            return;
        }
        reactor.serve(&events);
        reactor.expire();
        for request in requests.try_iter() {
            if let Request::Stop = request {
                return;
            }
            reactor.answer(request);
        }
    }
}

impl Reactor {
    /// The one place where the thread sleeps.
    fn sleep(&mut self, events: &mut Events) -> io::Result<()> {
        let deadline = self.services.values().filter_map(Service::deadline).min();
        let timeout = match self.sockets.again.is_empty() {
            true => deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())),
            false => Some(Duration::ZERO),
        };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    fn serve(&mut self, events: &Events) {
        let mut ready = std::mem::take(&mut self.sockets.again);
        ready.extend(events.iter().map(mio::event::Event::token));
        for token in ready {
            if let Some(&owner) = self.sockets.owners.get(&token) {
                self.with(owner, |service, context| service.ready(token, context));
            }
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let is_due = |service: &Service| service.deadline().is_some_and(|due| due <= now);
        let due: Vec<u64> =
            self.services.iter().filter(|(_, of)| is_due(of)).map(|(id, _)| *id).collect();
        for id in due {
            self.with(id, |service, context| service.expire(now, context));
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            Request::Drops(log, watch, reply) => {
                let drops =
                    |context: &mut Context<'_>| Service::Drops(Drops::open(log, watch, context));
                let _ = reply.send(self.open(drops));
            }
            Request::Names(sockets, watch, reply) => {
                let names = |context: &mut Context<'_>| {
                    Service::Names(Names::open(sockets, watch, context))
                };
                let _ = reply.send(self.open(names));
            }
            Request::Port(listener, target, reply) => {
                let port = |context: &mut Context<'_>| {
                    Service::Port(Port::open(listener, target, context))
                };
                let _ = reply.send(self.open(port));
            }
            Request::Reach { id, ports, handle } => {
                self.with_port(id, |port, _| port.reach(Guest { ports, handle, id }));
            }
            Request::Listen { id, wanted } => {
                self.with_port(id, |port, _| port.set_listening(wanted));
            }
            Request::Left { id } => self.with_port(id, Port::left),
            Request::End { id, .. } => {
                if let Some(service) = self.services.remove(&id) {
                    service.close(&mut self.context(id));
                }
            }
            Request::Stop => {}
        }
    }

    fn open(&mut self, open: impl FnOnce(&mut Context<'_>) -> Service) -> u64 {
        self.last += 1;
        let id = self.last;
        let service = open(&mut self.context(id));
        self.services.insert(id, service);
        id
    }

    fn with(&mut self, id: u64, act: impl FnOnce(&mut Service, &mut Context<'_>)) {
        if let Some(mut service) = self.services.remove(&id) {
            act(&mut service, &mut self.context(id));
            self.services.insert(id, service);
        }
    }

    fn with_port(&mut self, id: u64, act: impl FnOnce(&mut Port, &mut Context<'_>)) {
        self.with(id, |service, context| {
            if let Service::Port(port) = service {
                act(port, context);
            }
        });
    }

    fn context(&mut self, service: u64) -> Context<'_> {
        let Self { poll, sockets, buffer, resolv_conf, .. } = self;
        Context { registry: poll.registry(), sockets, service, buffer, resolv_conf }
    }
}

impl Service {
    fn ready(&mut self, token: Token, context: &mut Context<'_>) {
        match self {
            Self::Names(names) => names.ready(token, context),
            Self::Port(port) => port.ready(token, context),
            Self::Drops(drops) => drops.ready(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Names(names) => names.deadline(),
            Self::Port(port) => port.deadline(),
            Self::Drops(_) => None,
        }
    }

    fn expire(&mut self, now: Instant, context: &mut Context<'_>) {
        match self {
            Self::Names(names) => names.expire(now, context),
            Self::Port(port) => port.expire(context),
            Self::Drops(_) => {}
        }
    }

    fn close(self, context: &mut Context<'_>) {
        match self {
            Self::Names(names) => names.close(context),
            Self::Port(port) => port.close(context),
            Self::Drops(drops) => drops.close(context),
        }
    }
}

impl Context<'_> {
    /// Listens to a socket; what it says comes with the token.
    pub(super) fn register(&mut self, socket: &mut impl Source, interest: Interest) -> Token {
        self.sockets.last += 1;
        let token = Token(self.sockets.last);
        if let Err(error) = self.registry.register(socket, token, interest) {
            log::error!("a socket is not listened to; error={error}");
        }
        self.sockets.owners.insert(token, self.service);
        // It may have been ready before.
        self.again(token);
        token
    }

    /// Listens to it no more.
    pub(super) fn forget(&mut self, socket: &mut impl Source, token: Token) {
        self.sockets.owners.remove(&token);
        if let Err(error) = self.registry.deregister(socket) {
            log::debug!("a socket was not listened to; error={error}");
        }
    }

    /// Says that a socket is ready still.
    pub(super) fn again(&mut self, token: Token) {
        self.sockets.again.push(token);
    }
}
