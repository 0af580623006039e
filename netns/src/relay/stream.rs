//! Pairs of connections that are passed on to each other as if they were one.
//!
//! What one side does not take yet is kept, and nothing more is read from the other side until it
//! is taken: so a connection costs no memory while nothing is stuck, and never more than a buffer.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use mio::{Interest, Token};
use nix::sys::socket::{setsockopt, sockopt};

use super::reactor::Context;

/// So much is read at once.
pub(super) const BUFFER: usize = 64 << 10;
/// So often one direction is pumped before it is another connection's turn.
const TURNS: usize = 8;

/// The pairs of a service.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pairs: HashMap<u64, Joined>,
    /// Which pair a socket belongs to.
    sides: HashMap<Token, u64>,
    last: u64,
}

#[derive(Debug)]
struct Joined {
    pair: Pair,
    tokens: [Token; 2],
}

impl Streams {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.pairs.len()
    }

    /// Passes two connections on to each other, once the far one is open.
    pub(super) fn add(&mut self, near: TcpStream, far: TcpStream, context: &mut Context<'_>) {
        let (there, back) = Default::default();
        let mut pair = Pair { near, far, is_open: false, there, back };
        let both = Interest::READABLE | Interest::WRITABLE;
        let tokens = pair.sockets().map(|socket| context.register(socket, both));
        self.last += 1;
        self.sides.extend(tokens.map(|token| (token, self.last)));
        self.pairs.insert(self.last, Joined { pair, tokens });
    }

    /// Goes on with a pair; gives the near connection back if the far one was refused.
    pub(super) fn ready(&mut self, token: Token, context: &mut Context<'_>) -> Option<TcpStream> {
        let &id = self.sides.get(&token)?;
        let joined = self.pairs.get_mut(&id)?;
        match joined.pair.advance(context.buffer) {
            Progress::Waits => {}
            Progress::Goes => context.again(token),
            Progress::Ended => drop(self.remove(id, context)),
            Progress::Broke => {
                if let Some(pair) = self.remove(id, context) {
                    break_off(&pair.near);
                    break_off(&pair.far);
                }
            }
            Progress::Refused => return self.remove(id, context).map(|pair| pair.near),
        }
        None
    }

    /// Breaks all of them off: what was not taken yet is for nobody.
    pub(super) fn close(&mut self, context: &mut Context<'_>) {
        let all: Vec<u64> = self.pairs.keys().copied().collect();
        for id in all {
            if let Some(joined) = self.pairs.get_mut(&id) {
                joined.pair.sockets().into_iter().for_each(|socket| break_off(socket));
            }
            drop(self.remove(id, context));
        }
    }

    fn remove(&mut self, id: u64, context: &mut Context<'_>) -> Option<Pair> {
        let Joined { mut pair, tokens } = self.pairs.remove(&id)?;
        for (socket, token) in pair.sockets().into_iter().zip(tokens) {
            self.sides.remove(&token);
            context.forget(socket, token);
        }
        Some(pair)
    }
}

/// A pair of connections.
#[derive(Debug)]
struct Pair {
    near: TcpStream,
    far: TcpStream,
    /// Whether the far one is open. Nothing is read before.
    is_open: bool,
    /// From near to far.
    there: Flow,
    back: Flow,
}

/// What is known of one direction.
#[derive(Debug, Default)]
struct Flow {
    /// Read, and not taken yet.
    kept: Vec<u8>,
    has_ended: bool,
    is_shut: bool,
}

/// How a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing more to do until a socket says so.
    Waits,
    /// It was interrupted for the sake of others.
    Goes,
    /// Both directions have ended.
    Ended,
    /// Something broke, and both peers are to learn of it.
    Broke,
    /// The far connection did not open.
    Refused,
}

impl Pair {
    fn sockets(&mut self) -> [&mut TcpStream; 2] {
        [&mut self.near, &mut self.far]
    }

    /// Passes on what there is, if the far connection is open by now.
    fn advance(&mut self, buffer: &mut [u8]) -> Progress {
        if !self.is_open {
            match self.opened() {
                Ok(true) => self.is_open = true,
                Ok(false) => return Progress::Waits,
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

    /// Passes on what there is.
    fn pump(&mut self, buffer: &mut [u8]) -> Progress {
        let there = self.there.pump(&mut self.near, &mut self.far, buffer);
        let back = self.back.pump(&mut self.far, &mut self.near, buffer);
        match (there, back) {
            (Ok(Progress::Ended), Ok(Progress::Ended)) => Progress::Ended,
            (Ok(Progress::Goes), Ok(_)) | (Ok(_), Ok(Progress::Goes)) => Progress::Goes,
            (Ok(_), Ok(_)) => Progress::Waits,
            (Err(error), _) | (_, Err(error)) => {
                log::trace!("a connection broke; error={error}");
                Progress::Broke
            }
        }
    }
}

impl Flow {
    fn pump(
        &mut self,
        from: &mut TcpStream,
        to: &mut TcpStream,
        buffer: &mut [u8],
    ) -> io::Result<Progress> {
        for _ in 0..TURNS {
            if !self.kept.is_empty() {
                let Some(count) = some(to.write(&self.kept))? else { return Ok(Progress::Waits) };
                self.kept.drain(..count);
                continue;
            }
            if self.has_ended {
                if !std::mem::replace(&mut self.is_shut, true) {
                    to.shutdown(Shutdown::Write)?;
                }
                return Ok(Progress::Ended);
            }
            let Some(count) = some(from.read(buffer))? else { return Ok(Progress::Waits) };
            self.has_ended = count == 0;
            let read = buffer.get(..count).unwrap_or_default();
            let taken = if read.is_empty() { 0 } else { some(to.write(read))?.unwrap_or(0) };
            self.kept.extend_from_slice(read.get(taken..).unwrap_or_default());
        }
        Ok(Progress::Goes)
    }
}

/// Lets the kernel forget, when the socket is closed, what it still has to send.
pub(super) fn break_off(socket: &TcpStream) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(errno) = setsockopt(socket, sockopt::Linger, &at_once) {
        log::debug!("a connection may linger; error={errno}");
    }
}

/// None if the socket is not ready.
fn some(result: io::Result<usize>) -> io::Result<Option<usize>> {
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

    /// A pair, and the two ends that it joins.
    fn pair() -> (Pair, Std, Std) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let join = || {
            let outer = Std::connect(listener.local_addr().unwrap()).unwrap();
            let (inner, _) = listener.accept().unwrap();
            inner.set_nonblocking(true).unwrap();
            (TcpStream::from_std(inner), outer)
        };
        let ((near, client), (far, server)) = (join(), join());
        let (there, back) = (Flow::default(), Flow::default());
        (Pair { near, far, is_open: true, there, back }, client, server)
    }

    #[test]
    fn what_one_side_says_the_other_hears_until_both_have_ended() {
        let (mut pair, mut client, mut server) = pair();
        let mut buffer = [0; 16];
        client.write_all(b"question, which is longer than the buffer").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        while pair.pump(&mut buffer) == Progress::Goes {}
        let mut heard = String::new();
        server.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "question, which is longer than the buffer");

        server.write_all(b"answer").unwrap();
        drop(server);
        while pair.pump(&mut buffer) != Progress::Ended {}
        let mut heard = String::new();
        client.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, "answer");
    }

    #[test]
    fn a_side_that_takes_nothing_stops_the_other() {
        let (mut pair, mut client, _server) = pair();
        client.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; BUFFER];
        let mut sent = 0;
        // Until neither takes any more.
        loop {
            let written = client.write(&[0; 4096]).unwrap_or(0);
            sent += written;
            if pair.pump(&mut buffer) == Progress::Waits && written == 0 {
                break;
            }
        }
        assert!(sent > BUFFER);
        assert!(pair.there.kept.len() <= BUFFER);
    }
}
