//! Forwards a guest's DNS queries to the host's DNS servers.
//!
//! Each query by UDP has its own connected socket: so query IDs of different guests cannot collide, and
//! only the server that was asked can respond. A connection by TCP is forwarded to a server.
//!
//! INVARIANT: a guest has at most `MAX_QUERIES` open queries; further queries are dropped.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Token};
use sandbox::{Dropped, EgressObserver, SINKHOLE};

use super::acceptor::Acceptor;
use super::context::Context;
use super::hosts::Hosts;
use super::pair::{ConnectionPairs, reset_on_close};
use super::question::{HEADER, QR, Question};
use super::resolv_conf::dns_servers;
use crate::guest::GATEWAY;
use crate::ruleset::DNS;
use crate::slot::DnsSockets;

/// The limit of open queries.
const MAX_QUERIES: usize = 128;
/// The limit of a query's length.
const MAX_LENGTH: usize = 4096;
/// The limit of open connections.
const MAX_CONNECTIONS: usize = 32;
/// The time-out of a server, after which the next one is asked.
const TIMEOUT: Duration = Duration::from_secs(3);
/// The response code "server failure".
const SERVFAIL: u8 = 2;
/// The response code "refused by policy".
const REFUSED: u8 = 5;

/// The DNS forwarder of one guest.
pub(super) struct DnsForwarder {
    udp: UdpSocket,
    udp_token: Token,
    acceptor: Acceptor,
    /// Decides which names may be resolved.
    observer: Option<Arc<dyn EgressObserver>>,
    /// The only names that are resolved.
    hosts: Option<Hosts>,
    queries: HashMap<Token, Query>,
    /// The deadline of each query, in order, since all have the same time-out.
    deadlines: VecDeque<(Instant, Token)>,
    pairs: ConnectionPairs,
}

/// A query that waits for a server's response.
#[derive(Debug)]
struct Query {
    socket: UdpSocket,
    message: Vec<u8>,
    guest: SocketAddr,
    /// The servers to ask after this one.
    others: VecDeque<SocketAddr>,
}

impl DnsForwarder {
    pub(super) fn open(
        sockets: DnsSockets,
        observer: Option<Arc<dyn EgressObserver>>,
        hosts: Option<Hosts>,
        context: &mut Context<'_>,
    ) -> Self {
        let mut udp = UdpSocket::from_std(sockets.udp);
        let udp_token = context.register(&mut udp, Interest::READABLE);
        let acceptor = Acceptor::open(sockets.tcp, context);
        let pairs = ConnectionPairs::default();
        let (queries, deadlines) = (HashMap::new(), VecDeque::new());
        Self { udp, udp_token, acceptor, observer, hosts, queries, deadlines, pairs }
    }

    pub(super) fn ready(&mut self, token: Token, context: &mut Context<'_>) {
        if token == self.udp_token {
            self.receive_queries(context);
        } else if token == self.acceptor.token {
            self.accept_connections(context);
        } else if self.queries.contains_key(&token) {
            self.receive_response(token, context);
        } else if let Some(near) = self.pairs.ready(token, context) {
            reset_on_close(&near);
        }
    }

    /// When to call [`expire`](Self::expire).
    pub(super) fn deadline(&self) -> Option<Instant> {
        let response = self.deadlines.front().map(|(deadline, _)| *deadline);
        [response, self.acceptor.retry_at()].into_iter().flatten().min()
    }

    /// Asks the next server for each query that has timed out.
    pub(super) fn expire(&mut self, now: Instant, context: &mut Context<'_>) {
        if self.acceptor.retry_at().is_some_and(|retry| retry <= now) {
            self.accept_connections(context);
        }
        while self.deadlines.front().is_some_and(|(deadline, _)| *deadline <= now) {
            let Some((_, token)) = self.deadlines.pop_front() else { break };
            // An answered query was removed.
            if let Some(mut query) = self.queries.remove(&token) {
                context.deregister(&mut query.socket, token);
                self.forward(query.message, query.guest, query.others, context);
            }
        }
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        // The slot keeps its own descriptors of these sockets open.
        context.deregister(&mut self.udp, self.udp_token);
        self.acceptor.close(context);
        for (token, query) in &mut self.queries {
            context.deregister(&mut query.socket, *token);
        }
        self.pairs.close(context);
    }

    fn receive_queries(&mut self, context: &mut Context<'_>) {
        const BATCH: usize = 64;
        for _ in 0..BATCH {
            let Ok((count, guest)) = self.udp.recv_from(context.buffer) else { return };
            let message = context.buffer.get(..count).unwrap_or_default().to_vec();
            let is_query = message.get(2).is_some_and(|flags| flags & QR == 0);
            let is_whole = (HEADER..=MAX_LENGTH).contains(&message.len());
            if is_whole && is_query && self.queries.len() < MAX_QUERIES {
                self.handle_query(message, guest, context);
            }
        }
        context.set_ready(self.udp_token);
    }

    /// Forwards a query if the observer allows it. A forbidden name resolves to `SINKHOLE`, where the
    /// proxy refuses the connection with a reason.
    fn handle_query(&mut self, message: Vec<u8>, guest: SocketAddr, context: &mut Context<'_>) {
        if let Some(observer) = &self.observer {
            let Some(question) = Question::read(&message) else {
                return self.respond(&error(message, SERVFAIL), guest);
            };
            let may_resolve = observer.may_resolve(&question.name);
            if question.is_service_binding() {
                return self.respond(&question.nodata(&message), guest);
            }
            if !may_resolve {
                return self.respond(&question.response(&message, SINKHOLE), guest);
            }
        }
        if let Some(hosts) = &self.hosts {
            let Some(question) = Question::read(&message) else {
                return self.respond(&error(message, SERVFAIL), guest);
            };
            if !hosts.have(&question.name) {
                return self.respond(&error(message, REFUSED), guest);
            }
            if question.is_service_binding() {
                return self.respond(&question.nodata(&message), guest);
            }
        }
        let servers = dns_servers(context.resolv_conf).into();
        self.forward(message, guest, servers, context);
    }

    fn forward(
        &mut self,
        message: Vec<u8>,
        guest: SocketAddr,
        mut others: VecDeque<SocketAddr>,
        context: &mut Context<'_>,
    ) {
        while let Some(server) = others.pop_front() {
            match send(&message, server) {
                Ok(mut socket) => {
                    let token = context.register(&mut socket, Interest::READABLE);
                    self.queries.insert(token, Query { socket, message, guest, others });
                    self.deadlines.push_back((Instant::now() + TIMEOUT, token));
                    return;
                }
                Err(error) => {
                    log::debug!("cannot query a DNS server; server={server} error={error}")
                }
            }
        }
        self.respond(&error(message, SERVFAIL), guest);
    }

    fn receive_response(&mut self, token: Token, context: &mut Context<'_>) {
        while let Some(query) = self.queries.get(&token) {
            let is_answered = match query.socket.recv(context.buffer) {
                Ok(count) => {
                    let response = context.buffer.get(..count).unwrap_or_default();
                    // Not the response to this query.
                    if response.len() < HEADER || response.get(..2) != query.message.get(..2) {
                        continue;
                    }
                    let is_open = self
                        .hosts
                        .as_mut()
                        .is_none_or(|hosts| hosts.open(&query.message, response));
                    if is_open {
                        self.respond(response, query.guest);
                    } else {
                        self.respond(&error(query.message.clone(), SERVFAIL), query.guest);
                    }
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Connection refused: no server there.
                Err(_) => false,
            };
            let Some(mut query) = self.queries.remove(&token) else { return };
            context.deregister(&mut query.socket, token);
            if !is_answered {
                self.forward(query.message, query.guest, query.others, context);
            }
        }
    }

    fn respond(&self, message: &[u8], guest: SocketAddr) {
        // The guest repeats a query whose response is lost.
        if let Err(error) = self.udp.send_to(message, guest) {
            log::debug!("cannot send a response; guest={guest} error={error}");
        }
    }

    fn accept_connections(&mut self, context: &mut Context<'_>) {
        for near in self.acceptor.accept(usize::MAX, context) {
            // Queries by TCP are not inspected, so with an observer or with hosts they are refused.
            if self.hosts.is_some() {
                continue;
            }
            if let Some(observer) = &self.observer {
                let (protocol, address) = (libc::IPPROTO_TCP as u8, GATEWAY.into());
                observer.dropped(Dropped { protocol, address, port: DNS });
                continue;
            }
            if self.pairs.count() >= MAX_CONNECTIONS {
                continue;
            }
            let mut servers = dns_servers(context.resolv_conf).into_iter();
            if let Some(far) = servers.find_map(|server| TcpStream::connect(server).ok()) {
                self.pairs.add(near, far, context);
            }
        }
    }
}

fn send(message: &[u8], server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(server)?;
    socket.send(message)?;
    Ok(socket)
}

/// A response with this code, so that the guest need not wait for its time-out.
fn error(mut query: Vec<u8>, rcode: u8) -> Vec<u8> {
    if let [_, _, flags, code, ..] = query.as_mut_slice() {
        *flags |= QR;
        *code = *code & 0xf0 | rcode;
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_a_response_to_the_query() {
        let query = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1];
        let response = error(query.to_vec(), SERVFAIL);
        assert_eq!(response[..4], [7, 9, 0x81, SERVFAIL]);
        assert_eq!(response[4..], query[4..]);
    }
}
