//! Framing: a 32-bit little-endian length, then one postcard message.
//!
//! INVARIANT: the decoder's memory is at most twice the bytes it holds plus two
//! [`CHUNK`]s: memory is allocated as bytes arrive, not by the announced length.

use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The longest message, in bytes, without the frame's header.
pub const MAX_FRAME: usize = 1 << 20;

/// The usual payload of a `Data` message: large enough to be cheap, small enough that a ping behind a few
/// of them is not delayed.
pub const CHUNK: usize = 64 << 10;

const HEADER: usize = size_of::<u32>();

/// Appends `message` as one frame to `out`. On error `out` is as it was.
pub fn encode<T: Serialize>(message: &T, out: &mut Vec<u8>) -> Result<()> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    if let Err(source) = postcard::serialize_with_flavor(message, Append(out)) {
        out.truncate(start);
        return Err(Error::Encode { source });
    }
    let length = out.len() - start - HEADER;
    match u32::try_from(length) {
        Ok(header) if length <= MAX_FRAME => {
            out[start..start + HEADER].copy_from_slice(&header.to_le_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(Error::MessageTooLong { length })
        }
    }
}

/// Lets postcard append whole slices to a vector that already holds frames.
struct Append<'a>(&'a mut Vec<u8>);

impl Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Decodes messages from a stream of bytes in pieces of any size.
///
/// Read into [`space`](Self::space), say how much with [`filled`](Self::filled), then
/// call [`next`](Self::next) until it has no more. An error is final: the stream has
/// lost its frames.
#[derive(Debug, Default)]
pub struct Decoder {
    /// All of it initialised; `start..end` holds what is not decoded yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Decoder {
    /// An empty decoder without a buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// A decoder with a buffer of `room` bytes. One of several frames is faster than the usual one:
    /// less of what is left of a frame is moved to its front.
    pub fn with_room(room: usize) -> Self {
        Self { buffer: vec![0; room], start: 0, end: 0 }
    }

    /// Where to read the next bytes into; never empty.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() - self.end < CHUNK / 2 && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() - self.end < CHUNK / 2 {
            let room = self.buffer.len().max(CHUNK);
            self.buffer.resize(self.end + room, 0);
        }
        &mut self.buffer[self.end..]
    }

    /// Records that `count` bytes were read into [`space`](Self::space).
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
    }

    /// Appends `bytes`.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            self.filled(count);
            bytes = &bytes[count..];
        }
    }

    /// Whether some bytes of an unfinished frame are held: a peer that closes now
    /// closes in the middle of a message.
    pub fn is_mid_frame(&self) -> bool {
        self.start != self.end
    }

    /// Gives the buffer back if nothing is in it, so that an idle connection costs
    /// no memory.
    pub fn release(&mut self) {
        if self.start == self.end {
            *self = Self::new();
        }
    }

    /// The next message, borrowed from the buffer, or `None` until more bytes come.
    pub fn next<'de, T: Deserialize<'de>>(&'de mut self) -> Result<Option<T>> {
        match self.next_frame()? {
            Some(frame) => decode(frame).map(Some),
            None => Ok(None),
        }
    }

    /// The next frame's bytes, undecoded.
    pub(crate) fn next_frame(&mut self) -> Result<Option<&[u8]>> {
        let held = &self.buffer[self.start..self.end];
        let Some((header, rest)) = held.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*header) as usize;
        if length > MAX_FRAME {
            return Err(Error::FrameTooLong { length });
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        self.start += HEADER + length;
        Ok(Some(frame))
    }
}

/// One message from all of `frame`.
fn decode<'de, T: Deserialize<'de>>(frame: &'de [u8]) -> Result<T> {
    match postcard::take_from_bytes(frame) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(Error::Trailing { extra: rest.len() }),
        Err(source) => Err(Error::Decode { length: frame.len(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GuestBody, GuestMessage, RequestId, Stream};

    fn data(id: u64, data: &[u8]) -> GuestMessage<'_> {
        GuestMessage { id: RequestId(id), body: GuestBody::Data(Stream::Stdout, data) }
    }

    #[test]
    fn frames_are_decoded_from_chunks_of_any_size() {
        let mut bytes = Vec::new();
        encode(&data(1, b"one"), &mut bytes).unwrap();
        encode(&data(2, &[7; 300]), &mut bytes).unwrap();
        let mut decoder = Decoder::new();
        let mut seen = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            if let Some(GuestMessage { id, body: GuestBody::Data(_, data) }) =
                decoder.next().unwrap()
            {
                seen.push((id.0, data.len()));
            }
        }
        assert_eq!(seen, [(1, 3), (2, 300)]);
        assert!(!decoder.is_mid_frame());
    }

    #[test]
    fn the_buffer_grows_only_for_a_frame_that_needs_it() {
        let mut decoder = Decoder::with_room(4 * CHUNK);
        assert_eq!(decoder.space().len(), 4 * CHUNK);
        decoder.filled(4 * CHUNK);
        assert!(decoder.space().len() >= CHUNK / 2);
    }

    #[test]
    fn a_header_over_the_limit_is_rejected_before_its_body() {
        let mut decoder = Decoder::new();
        decoder.push(&(MAX_FRAME as u32 + 1).to_le_bytes());
        let result = decoder.next::<GuestMessage>();
        assert!(matches!(result, Err(Error::FrameTooLong { length }) if length == MAX_FRAME + 1));
    }

    #[test]
    fn an_announced_length_allocates_no_memory() {
        let mut decoder = Decoder::new();
        decoder.push(&(MAX_FRAME as u32).to_le_bytes());
        assert!(decoder.next::<GuestMessage>().unwrap().is_none());
        decoder.space();
        assert!(decoder.buffer.len() <= 2 * CHUNK);
    }

    #[test]
    fn bytes_after_a_message_are_an_error() {
        let mut decoder = Decoder::new();
        let mut bytes = Vec::new();
        encode(&data(1, b""), &mut bytes).unwrap();
        let length = bytes.len() as u32 - 4 + 1;
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        bytes.push(0);
        decoder.push(&bytes);
        assert!(matches!(decoder.next::<GuestMessage>(), Err(Error::Trailing { extra: 1 })));
    }

    #[test]
    fn a_message_over_the_limit_leaves_the_output_unchanged() {
        let mut out = vec![1, 2, 3];
        let result = encode(&data(1, &vec![0; MAX_FRAME]), &mut out);
        assert!(matches!(result, Err(Error::MessageTooLong { .. })));
        assert_eq!(out, [1, 2, 3]);
    }

    #[test]
    fn an_idle_decoder_gives_its_buffer_back() {
        let mut decoder = Decoder::new();
        let mut bytes = Vec::new();
        encode(&data(1, &[0; 100_000]), &mut bytes).unwrap();
        decoder.push(&bytes);
        assert!(decoder.next::<GuestMessage>().unwrap().is_some());
        decoder.release();
        assert_eq!(decoder.buffer.capacity(), 0);
    }
}
