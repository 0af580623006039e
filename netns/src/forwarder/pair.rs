//! Pairs of connections that are forwarded to each other.
//!
//! Bytes that one side cannot send yet are buffered, and nothing more is read from the other side until
//! they are sent. So a direction needs memory only while its receiver is slow, and never more than one
//! buffer.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use mio::{Interest, Token};
use nix::sys::socket::{setsockopt, sockopt};

use super::context::Context;

/// The size of one read.
pub(super) const BUFFER: usize = 64 << 10;
/// Reads and writes per direction before other connections get their turn.
const BATCH: usize = 8;

/// The pairs of one forwarder.
#[derive(Debug, Default)]
pub(super) struct ConnectionPairs {
    pairs: HashMap<u64, RegisteredPair>,
    /// The pair that a socket belongs to.
    sides: HashMap<Token, u64>,
    last: u64,
}

#[derive(Debug)]
struct RegisteredPair {
    pair: ConnectionPair,
    tokens: [Token; 2],
}

impl ConnectionPairs {
    pub(super) fn count(&self) -> usize {
        self.pairs.len()
    }

    /// Forwards two connections to each other, once the far one is open.
    pub(super) fn add(&mut self, near: TcpStream, far: TcpStream, context: &mut Context<'_>) {
        let (outbound, inbound) = Default::default();
        let mut pair = ConnectionPair { near, far, is_open: false, outbound, inbound };
        let both = Interest::READABLE | Interest::WRITABLE;
        let tokens = pair.sockets().map(|socket| context.register(socket, both));
        self.last += 1;
        self.sides.extend(tokens.map(|token| (token, self.last)));
        self.pairs.insert(self.last, RegisteredPair { pair, tokens });
    }

    /// Continues with a pair. Returns the near connection if the far one was refused.
    pub(super) fn ready(&mut self, token: Token, context: &mut Context<'_>) -> Option<TcpStream> {
        let &id = self.sides.get(&token)?;
        let registered = self.pairs.get_mut(&id)?;
        match registered.pair.advance(context.buffer) {
            Progress::Blocked => {}
            Progress::Yielded => context.set_ready(token),
            Progress::Closed => drop(self.remove(id, context)),
            Progress::Failed => {
                if let Some(pair) = self.remove(id, context) {
                    reset_on_close(&pair.near);
                    reset_on_close(&pair.far);
                }
            }
            Progress::Refused => return self.remove(id, context).map(|pair| pair.near),
        }
        None
    }

    /// Resets all connections; buffered bytes are lost.
    pub(super) fn close(&mut self, context: &mut Context<'_>) {
        let all: Vec<u64> = self.pairs.keys().copied().collect();
        for id in all {
            if let Some(registered) = self.pairs.get_mut(&id) {
                registered.pair.sockets().into_iter().for_each(|socket| reset_on_close(socket));
            }
            drop(self.remove(id, context));
        }
    }

    fn remove(&mut self, id: u64, context: &mut Context<'_>) -> Option<ConnectionPair> {
        let RegisteredPair { mut pair, tokens } = self.pairs.remove(&id)?;
        for (socket, token) in pair.sockets().into_iter().zip(tokens) {
            self.sides.remove(&token);
            context.deregister(socket, token);
        }
        Some(pair)
    }
}

/// A pair of connections.
#[derive(Debug)]
struct ConnectionPair {
    near: TcpStream,
    far: TcpStream,
    /// The far connection is open. Nothing is read before.
    is_open: bool,
    /// From near to far.
    outbound: Direction,
    inbound: Direction,
}

/// The state of one direction.
#[derive(Debug, Default)]
struct Direction {
    /// Bytes that were read and not sent yet.
    buffered: Vec<u8>,
    read_eof: bool,
    write_shut: bool,
}

/// The result of handling a pair or a direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing to do until the next event.
    Blocked,
    /// The batch is over; more can be done at once.
    Yielded,
    /// Both directions have ended.
    Closed,
    /// A connection failed: both are reset.
    Failed,
    /// The far connection did not open.
    Refused,
}

impl ConnectionPair {
    fn sockets(&mut self) -> [&mut TcpStream; 2] {
        [&mut self.near, &mut self.far]
    }

    /// Forwards available bytes, if the far connection is open by now.
    fn advance(&mut self, buffer: &mut [u8]) -> Progress {
        if !self.is_open {
            match self.opened() {
                Ok(true) => self.is_open = true,
                Ok(false) => return Progress::Blocked,
                Err(error) => {
                    log::debug!("a connection is refused; error={error}");
                    return Progress::Refused;
                }
            }
        }
        self.pump(buffer)
    }

    fn opened(&self) -> io::Result<bool> {
        if let Some(error) = self.far.take_error()? {
            return Err(error);
        }
        match self.far.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forwards available bytes in both directions.
    fn pump(&mut self, buffer: &mut [u8]) -> Progress {
        let outbound = self.outbound.pump(&mut self.near, &mut self.far, buffer);
        let inbound = self.inbound.pump(&mut self.far, &mut self.near, buffer);
        match (outbound, inbound) {
            (Ok(Progress::Closed), Ok(Progress::Closed)) => Progress::Closed,
            (Ok(Progress::Yielded), Ok(_)) | (Ok(_), Ok(Progress::Yielded)) => Progress::Yielded,
            (Ok(_), Ok(_)) => Progress::Blocked,
            (Err(error), _) | (_, Err(error)) => {
                log::trace!("a connection failed; error={error}");
                Progress::Failed
            }
        }
    }
}

impl Direction {
    fn pump(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        buffer: &mut [u8],
    ) -> io::Result<Progress> {
        for _ in 0..BATCH {
            if !self.buffered.is_empty() {
                let Some(count) = if_ready(to.write(&self.buffered))? else {
                    return Ok(Progress::Blocked);
                };
                self.buffered.drain(..count);
                continue;
            }
            if self.read_eof {
                if !std::mem::replace(&mut self.write_shut, true) {
                    to.shutdown(Shutdown::Write)?;
                }
                return Ok(Progress::Closed);
            }
            let Some(count) = if_ready(from.read(buffer))? else { return Ok(Progress::Blocked) };
            self.read_eof = count == 0;
            let read = buffer.get(..count).unwrap_or_default();
            let sent = if read.is_empty() { 0 } else { if_ready(to.write(read))?.unwrap_or(0) };
            self.buffered.extend_from_slice(read.get(sent..).unwrap_or_default());
        }
        Ok(Progress::Yielded)
    }
}

/// Makes close(2) send a reset and discard unsent bytes (SO_LINGER with a time-out of zero).
pub(super) fn reset_on_close(socket: &TcpStream) {
    let reset = libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(errno) = setsockopt(socket, sockopt::Linger, &reset) {
        log::debug!("cannot set SO_LINGER; error={errno}");
    }
}

/// `None` if the socket is not ready.
fn if_ready(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream as Std};

    use super::*;

    /// A pair, its client and its server.
    fn pair() -> (ConnectionPair, Std, Std) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let outer = Std::connect(listener.local_addr().unwrap()).unwrap();
            let (inner, _) = listener.accept().unwrap();
            inner.set_nonblocking(true).unwrap();
            (TcpStream::from_std(inner), outer)
        };
        let ((near, client), (far, server)) = (connect(), connect());
        let (outbound, inbound) = (Direction::default(), Direction::default());
        (ConnectionPair { near, far, is_open: true, outbound, inbound }, client, server)
    }

    #[test]
    fn bytes_pass_in_both_directions_until_both_sides_have_closed() {
        let (mut pair, mut client, mut server) = pair();
        let mut buffer = [0; 16];
        client.write_all(b"question, which is longer than the buffer").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        while pair.pump(&mut buffer) == Progress::Yielded {}
        let mut received = String::new();
        server.read_to_string(&mut received).unwrap();
        assert_eq!(received, "question, which is longer than the buffer");

        server.write_all(b"answer").unwrap();
        drop(server);
        while pair.pump(&mut buffer) != Progress::Closed {}
        let mut received = String::new();
        client.read_to_string(&mut received).unwrap();
        assert_eq!(received, "answer");
    }

    #[test]
    fn a_receiver_that_does_not_read_stops_its_sender() {
        let (mut pair, mut client, _server) = pair();
        client.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; BUFFER];
        let mut sent = 0;
        // Until neither accepts more.
        loop {
            let written = client.write(&[0; 4096]).unwrap_or(0);
            sent += written;
            if pair.pump(&mut buffer) == Progress::Blocked && written == 0 {
                break;
            }
        }
        assert!(sent > BUFFER);
        assert!(pair.outbound.buffered.len() <= BUFFER);
    }
}
