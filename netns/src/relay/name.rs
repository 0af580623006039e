//! Questions for names: what a guest asks its gateway is asked of the host's own name servers.
//!
//! By UDP each question has a socket of its own, so a guest's number for it means nothing to others
//! and an answer can come only from the server that was asked. By TCP it is a connection.
//!
//! INVARIANT: a guest has no more than `QUESTIONS` open; more are not taken.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{TcpStream, UdpSocket};
use mio::{Interest, Token};
use sandbox::{Dropped, EgressObserver, SINKHOLE};

use super::door::Door;
use super::question::{ANSWER, HEADER, Question as Asked};
use super::reactor::Context;
use super::resolver::servers;
use super::stream::{Streams, break_off};
use crate::guest::GATEWAY;
use crate::ruleset::DNS;
use crate::slot::NameSockets;

const QUESTIONS: usize = 128;
/// The longest question: names are short.
const LONGEST: usize = 4096;
const CONNECTIONS: usize = 32;
/// How long a server may take before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(3);
/// The code of an answer that there is none.
const SERVER_FAILURE: u8 = 2;

/// What a guest asks.
pub(super) struct Names {
    udp: UdpSocket,
    udp_token: Token,
    door: Door,
    /// Who decides which names may be asked for.
    watch: Option<Arc<dyn EgressObserver>>,
    questions: HashMap<Token, Question>,
    /// When patience with each ends; all wait equally long.
    deadlines: VecDeque<(Instant, Token)>,
    streams: Streams,
}

/// A question that is being asked.
#[derive(Debug)]
struct Question {
    socket: UdpSocket,
    message: Vec<u8>,
    guest: SocketAddr,
    /// Who is to be asked next.
    others: VecDeque<SocketAddr>,
}

impl Names {
    pub(super) fn open(
        sockets: NameSockets,
        watch: Option<Arc<dyn EgressObserver>>,
        context: &mut Context<'_>,
    ) -> Self {
        let mut udp = UdpSocket::from_std(sockets.udp);
        let udp_token = context.register(&mut udp, Interest::READABLE);
        let door = Door::open(sockets.tcp, context);
        let streams = Streams::default();
        let (questions, deadlines) = (HashMap::new(), VecDeque::new());
        Self { udp, udp_token, door, watch, questions, deadlines, streams }
    }

    pub(super) fn ready(&mut self, token: Token, context: &mut Context<'_>) {
        if token == self.udp_token {
            self.take_questions(context);
        } else if token == self.door.token {
            self.take_connections(context);
        } else if self.questions.contains_key(&token) {
            self.take_answer(token, context);
        } else if let Some(near) = self.streams.ready(token, context) {
            break_off(&near);
        }
    }

    /// When [`expire`](Self::expire) is to be called, if at all.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let answer = self.deadlines.front().map(|(deadline, _)| *deadline);
        [answer, self.door.retry()].into_iter().flatten().min()
    }

    /// Asks the next server where one was too slow.
    pub(super) fn expire(&mut self, now: Instant, context: &mut Context<'_>) {
        if self.door.retry().is_some_and(|retry| retry <= now) {
            self.take_connections(context);
        }
        while self.deadlines.front().is_some_and(|(deadline, _)| *deadline <= now) {
            let Some((_, token)) = self.deadlines.pop_front() else { break };
            // One that was answered is gone already.
            if let Some(mut question) = self.questions.remove(&token) {
                context.forget(&mut question.socket, token);
                self.ask(question.message, question.guest, question.others, context);
            }
        }
    }

    pub(super) fn close(mut self, context: &mut Context<'_>) {
        // Others have these sockets open, too.
        context.forget(&mut self.udp, self.udp_token);
        self.door.close(context);
        for (token, question) in &mut self.questions {
            context.forget(&mut question.socket, *token);
        }
        self.streams.close(context);
    }

    fn take_questions(&mut self, context: &mut Context<'_>) {
        const AT_ONCE: usize = 64;
        for _ in 0..AT_ONCE {
            let Ok((count, guest)) = self.udp.recv_from(context.buffer) else { return };
            let message = context.buffer.get(..count).unwrap_or_default().to_vec();
            let is_question = message.get(2).is_some_and(|flags| flags & ANSWER == 0);
            let is_whole = (HEADER..=LONGEST).contains(&message.len());
            if is_whole && is_question && self.questions.len() < QUESTIONS {
                self.take(message, guest, context);
            }
        }
        context.again(self.udp_token);
    }

    /// Asks what may be asked. Who may not ask for a name is led to where a proxy can tell why.
    fn take(&mut self, message: Vec<u8>, guest: SocketAddr, context: &mut Context<'_>) {
        if let Some(watch) = &self.watch {
            let Some(question) = Asked::read(&message) else {
                return self.answer(&failure(message), guest);
            };
            let may_ask = watch.may_ask(&question.name);
            if question.is_of_services() {
                return self.answer(&question.nothing(&message), guest);
            }
            if !may_ask {
                return self.answer(&question.answer(&message, SINKHOLE), guest);
            }
        }
        let servers = servers(context.resolv_conf).into();
        self.ask(message, guest, servers, context);
    }

    fn ask(
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
                    self.questions.insert(token, Question { socket, message, guest, others });
                    self.deadlines.push_back((Instant::now() + PATIENCE, token));
                    return;
                }
                Err(error) => {
                    log::debug!("cannot ask a name server; server={server} error={error}")
                }
            }
        }
        self.answer(&failure(message), guest);
    }

    fn take_answer(&mut self, token: Token, context: &mut Context<'_>) {
        while let Some(question) = self.questions.get(&token) {
            let is_answered = match question.socket.recv(context.buffer) {
                Ok(count) => {
                    let answer = context.buffer.get(..count).unwrap_or_default();
                    // Whoever answers something else is not listened to.
                    if answer.len() < HEADER || answer.get(..2) != question.message.get(..2) {
                        continue;
                    }
                    self.answer(answer, question.guest);
                    true
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Nobody listens there.
                Err(_) => false,
            };
            let Some(mut question) = self.questions.remove(&token) else { return };
            context.forget(&mut question.socket, token);
            if !is_answered {
                self.ask(question.message, question.guest, question.others, context);
            }
        }
    }

    fn answer(&self, message: &[u8], guest: SocketAddr) {
        // One that is lost is asked for again.
        if let Err(error) = self.udp.send_to(message, guest) {
            log::debug!("an answer is lost; guest={guest} error={error}");
        }
    }

    fn take_connections(&mut self, context: &mut Context<'_>) {
        for near in self.door.take(usize::MAX, context) {
            // What is said by TCP is not looked into.
            if let Some(watch) = &self.watch {
                let (protocol, address) = (libc::IPPROTO_TCP as u8, GATEWAY.into());
                watch.dropped(Dropped { protocol, address, port: DNS });
                continue;
            }
            if self.streams.count() >= CONNECTIONS {
                continue;
            }
            let mut servers = servers(context.resolv_conf).into_iter();
            if let Some(far) = servers.find_map(|server| TcpStream::connect(server).ok()) {
                self.streams.add(near, far, context);
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

/// The answer that there is none, so that nobody waits for it.
fn failure(mut question: Vec<u8>) -> Vec<u8> {
    if let [_, _, flags, code, ..] = question.as_mut_slice() {
        *flags |= ANSWER;
        *code = *code & 0xf0 | SERVER_FAILURE;
    }
    question
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_answers_the_question() {
        let question = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'x', 0, 0, 1, 0, 1];
        let answer = failure(question.to_vec());
        assert_eq!(answer[..4], [7, 9, 0x81, SERVER_FAILURE]);
        assert_eq!(answer[4..], question[4..]);
    }
}
