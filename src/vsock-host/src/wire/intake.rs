//! Reading from peers in bounded turns, so that a busy peer does not delay the others.
//!
//! A decoder with nothing in it costs its connection no memory: a turn borrows the reactor's
//! spare one, and only half a message makes a connection keep it.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use vsock_proto::{CHUNK, Decoder};

use crate::Loss;

/// How often a peer may be read from in one turn, each time at most what a decoder has room for.
pub(crate) const READS: usize = 4;

/// The room of a new decoder.
const ROOM: usize = 4 * CHUNK;

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// All that had come is taken, or no more is wanted; epoll or a drained buffer starts the next.
    Done,
    /// There may be more.
    More,
}

/// Reads once; whether something came.
pub(crate) fn receive(mut socket: &UnixStream, decoder: &mut Decoder) -> Result<bool, Loss> {
    loop {
        match socket.read(decoder.space()) {
            Ok(0) if decoder.is_mid_frame() => return Err(Loss::MidFrame),
            Ok(0) => return Err(Loss::Closed),
            Ok(count) => {
                decoder.filled(count);
                return Ok(true);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A peer that closes with bytes of ours unread resets the connection.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Err(Loss::Closed);
            }
            Err(source) => return Err(Loss::Socket { source }),
        }
    }
}

/// The decoder that the sockets of a reactor share, for turns that begin without a partial message.
#[derive(Debug, Default)]
pub(crate) struct SpareDecoder(Option<Decoder>);

impl SpareDecoder {
    /// The decoder for a turn: a connection's own with half a message in it, or the spare one.
    pub(crate) fn borrow(&mut self, own: &mut Decoder) -> Decoder {
        if own.is_mid_frame() {
            return std::mem::take(own);
        }
        self.0.take().unwrap_or_else(|| Decoder::with_room(ROOM))
    }

    /// Puts a turn's decoder back; one that has grown for a large message is dropped.
    pub(crate) fn give_back(&mut self, mut decoder: Decoder, own: &mut Decoder) {
        if decoder.is_mid_frame() {
            *own = decoder;
        } else if decoder.space().len() <= ROOM {
            self.0 = Some(decoder);
        }
    }
}
