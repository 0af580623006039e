//! The thread: its forwarders, and the loop.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use mio::{Events, Poll, Token};

use super::context::{Context, Sockets};
use super::dns::DnsForwarder;
use super::drops::DropReporter;
use super::handle::ForwarderRequest;
use super::pair::BUFFER;
use super::tcp::{GuestPath, TcpForwarder};

enum AnyForwarder {
    Dns(DnsForwarder),
    Tcp(TcpForwarder),
    Drops(DropReporter),
}

/// The state of the thread.
struct Reactor {
    poll: Poll,
    forwarders: BTreeMap<u64, AnyForwarder>,
    last: u64,
    sockets: Sockets,
    buffer: Vec<u8>,
    resolv_conf: PathBuf,
}

/// Forwards until `ForwarderRequest::Stop`.
pub(super) fn run(poll: Poll, requests: &Receiver<ForwarderRequest>, resolv_conf: PathBuf) {
    let (forwarders, sockets, buffer) = (BTreeMap::new(), Sockets::default(), vec![0; BUFFER]);
    let mut reactor = Reactor { poll, forwarders, last: 0, sockets, buffer, resolv_conf };
    let mut events = Events::with_capacity(256);
    loop {
        if let Err(error) = reactor.sleep(&mut events) {
            log::error!("the forwarder stops: cannot poll; error={error}");
            return;
        }
        reactor.handle_events(&events);
        reactor.handle_deadlines();
        for request in requests.try_iter() {
            if let ForwarderRequest::Stop = request {
                return;
            }
            reactor.handle_request(request);
        }
    }
}

impl Reactor {
    /// The one place where the thread sleeps.
    fn sleep(&mut self, events: &mut Events) -> io::Result<()> {
        let timeout = if self.sockets.has_ready() {
            Some(Duration::ZERO)
        } else {
            let deadline = self.forwarders.values().filter_map(AnyForwarder::deadline).min();
            deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
        };
        match self.poll.poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            other => other,
        }
    }

    fn handle_events(&mut self, events: &Events) {
        let mut ready = self.sockets.take_ready();
        ready.extend(events.iter().map(mio::event::Event::token));
        for token in ready {
            if let Some(owner) = self.sockets.owner(token) {
                self.with(owner, |forwarder, context| forwarder.ready(token, context));
            }
        }
    }

    fn handle_deadlines(&mut self) {
        let now = Instant::now();
        let is_due = |forwarder: &AnyForwarder| forwarder.deadline().is_some_and(|due| due <= now);
        let due: Vec<u64> = self
            .forwarders
            .iter()
            .filter(|(_, forwarder)| is_due(forwarder))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.with(id, |forwarder, context| forwarder.expire(now, context));
        }
    }

    fn handle_request(&mut self, request: ForwarderRequest) {
        match request {
            ForwarderRequest::Drops(log, observer, reply) => {
                let _ = reply.send(self.open(|context| {
                    AnyForwarder::Drops(DropReporter::open(log, observer, context))
                }));
            }
            ForwarderRequest::Dns(sockets, observer, hosts, reply) => {
                let _ = reply.send(self.open(|context| {
                    AnyForwarder::Dns(DnsForwarder::open(sockets, observer, hosts, context))
                }));
            }
            ForwarderRequest::Tcp(listener, target, reply) => {
                let _ = reply.send(self.open(|context| {
                    AnyForwarder::Tcp(TcpForwarder::open(listener, target, context))
                }));
            }
            ForwarderRequest::Reach { id, ports, handle } => {
                self.with_tcp(id, |tcp, _| tcp.reach(GuestPath { ports, handle, id }));
            }
            ForwarderRequest::Listen { id, wanted } => {
                self.with_tcp(id, |tcp, _| tcp.set_listening(wanted));
            }
            ForwarderRequest::GuestConnectionEnded { id } => {
                self.with_tcp(id, TcpForwarder::guest_connection_ended);
            }
            ForwarderRequest::End { id, .. } => {
                if let Some(forwarder) = self.forwarders.remove(&id) {
                    forwarder.close(&mut self.context(id));
                }
            }
            ForwarderRequest::Stop => {}
        }
    }

    fn open(&mut self, open: impl FnOnce(&mut Context<'_>) -> AnyForwarder) -> u64 {
        self.last += 1;
        let id = self.last;
        let forwarder = open(&mut self.context(id));
        self.forwarders.insert(id, forwarder);
        id
    }

    fn with(&mut self, id: u64, act: impl FnOnce(&mut AnyForwarder, &mut Context<'_>)) {
        if let Some(mut forwarder) = self.forwarders.remove(&id) {
            act(&mut forwarder, &mut self.context(id));
            self.forwarders.insert(id, forwarder);
        }
    }

    fn with_tcp(&mut self, id: u64, act: impl FnOnce(&mut TcpForwarder, &mut Context<'_>)) {
        self.with(id, |forwarder, context| {
            if let AnyForwarder::Tcp(tcp) = forwarder {
                act(tcp, context);
            }
        });
    }

    fn context(&mut self, forwarder: u64) -> Context<'_> {
        let Self { poll, sockets, buffer, resolv_conf, .. } = self;
        Context { registry: poll.registry(), sockets, forwarder, buffer, resolv_conf }
    }
}

impl AnyForwarder {
    fn ready(&mut self, token: Token, context: &mut Context<'_>) {
        match self {
            Self::Dns(dns) => dns.ready(token, context),
            Self::Tcp(tcp) => tcp.ready(token, context),
            Self::Drops(drops) => drops.ready(),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Dns(dns) => dns.deadline(),
            Self::Tcp(tcp) => tcp.deadline(),
            Self::Drops(_) => None,
        }
    }

    fn expire(&mut self, now: Instant, context: &mut Context<'_>) {
        match self {
            Self::Dns(dns) => dns.expire(now, context),
            Self::Tcp(tcp) => tcp.expire(context),
            Self::Drops(_) => {}
        }
    }

    fn close(self, context: &mut Context<'_>) {
        match self {
            Self::Dns(dns) => dns.close(context),
            Self::Tcp(tcp) => tcp.close(context),
            Self::Drops(drops) => drops.close(context),
        }
    }
}
