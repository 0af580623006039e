//! A request's body as it comes, in bounded time.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::deadline::after;
use base::event::Event;

use crate::chunked::Decoder;
use crate::head::{Framing, Head};
use crate::memory::{Account, Memory, Reservation, SMALL};
use crate::method::Method;
use crate::refusal::Refusal;
use crate::wire::Wire;

const MIB: u64 = 1024 * 1024;

/// The time of an upload per started 100 MiB.
const UPLOAD: Duration = Duration::from_secs(60);

/// The size of one read.
const PIECE: usize = 16 * 1024;

/// The most bytes of an unread body that are read and dropped, so that the connection can be used again.
const MOST_SKIPPED: u64 = 128 * 1024;

/// What must come within each progress time-out.
const PROGRESS: u64 = 16 * 1024;

/// The body of the request that is being handled.
///
/// [`Read`] has a deadline; its errors have a [`Refusal`], see [`Refusal::of`].
pub struct Body<'a> {
    wire: &'a mut Wire,
    memory: &'a Memory,
    rest: Rest,
    clock: Clock,
    /// The client waits for `100 Continue`.
    expects: bool,
    /// Where the body ends is not known any more.
    is_broken: bool,
    reservation: Option<Reservation<'a>>,
    account: Account,
}

/// What has not been read.
enum Rest {
    Length(u64),
    Chunked(Decoder),
}

impl<'a> Body<'a> {
    pub(crate) fn new(
        wire: &'a mut Wire,
        memory: &'a Memory,
        head: &Head,
        request_timeout: Duration,
        account: Account,
    ) -> Self {
        let (rest, length) = match head.framing {
            Framing::Length(length) => (Rest::Length(length), length),
            Framing::Chunked => (Rest::Chunked(Decoder::default()), 0),
        };
        let clock = Clock::total(head.method, length, request_timeout);
        let expects = head.expects_continue() && head.framing != Framing::Length(0);
        Self { wire, memory, rest, clock, expects, is_broken: false, reservation: None, account }
    }

    /// The number of bytes that have not been read; `None` if only the body's end tells.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        match &self.rest {
            Rest::Length(left) => Some(*left),
            Rest::Chunked(decoder) => decoder.is_done().then_some(0),
        }
    }

    /// Replaces the deadline of the whole body by one for each 16 KiB: for an upload of any length.
    pub fn set_progress_timeout(&mut self, timeout: Duration) {
        self.clock = Clock::progress(timeout);
    }

    /// Makes reads fail with [`Refusal::Interrupted`] from when `event` is set, also those that wait.
    pub fn interrupt_by(&mut self, event: Arc<Event>) {
        self.wire.interrupt_by(event);
    }

    /// All of the body, if it has at most `limit` bytes and there is memory for it. The memory counts as
    /// the client address's until the request is answered.
    pub fn read_to_limit(&mut self, limit: u64) -> Result<Vec<u8>, Refusal> {
        let Loaded { bytes, reservation } = self.load(limit, self.account.clone())?;
        self.reservation = Some(reservation);
        Ok(bytes)
    }

    /// All of the body, if it has at most `limit` bytes and `account` has memory for it. Memory is
    /// reserved as bytes come, so an announced length alone takes none.
    pub fn load(&mut self, limit: u64, account: Account) -> Result<Loaded<'a>, Refusal> {
        if self.left().is_some_and(|left| left > limit) {
            return Err(Refusal::TooLarge { limit });
        }
        let is_large = self.left().is_some_and(|left| left > SMALL);
        let mut reservation = self.memory.open(account);
        let mut bytes = Vec::new();
        let mut piece = vec![0; PIECE];
        loop {
            let count = self.read_some(&mut piece)?;
            if count == 0 {
                return Ok(Loaded { bytes, reservation });
            }
            let size = (bytes.len() + count) as u64;
            if size > limit {
                return Err(Refusal::TooLarge { limit });
            }
            if is_large || size > SMALL {
                reservation.grow_to(size)?;
            }
            bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
        }
    }

    /// Reads some bytes; 0 at the end.
    pub fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Refusal> {
        if buffer.is_empty() || self.left() == Some(0) {
            return Ok(0);
        }
        if self.is_broken {
            return Err(Refusal::CutShort);
        }
        if std::mem::take(&mut self.expects) {
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| Refusal::CutShort)?;
        }
        let read = self.advance(buffer);
        self.is_broken = read.is_err();
        let count = read?;
        self.clock.advance(count as u64);
        Ok(count)
    }

    fn advance(&mut self, buffer: &mut [u8]) -> Result<usize, Refusal> {
        let deadline = self.clock.deadline;
        match &mut self.rest {
            Rest::Length(left) => {
                let room = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                let room = buffer.get_mut(..room).unwrap_or_default();
                let count = came(self.wire.read(room, deadline))?;
                *left -= count as u64;
                Ok(count)
            }
            Rest::Chunked(decoder) => loop {
                let (taken, written) = decoder.decode(self.wire.unread(), buffer)?;
                self.wire.consume(taken);
                if written > 0 || decoder.is_done() {
                    return Ok(written);
                }
                came(self.wire.fill(PIECE, deadline))?;
            },
        }
    }

    /// Whether the rest could be dropped, so that the connection can be used again.
    pub(crate) fn skip(&mut self) -> bool {
        let mut skipped = 0;
        loop {
            match self.left() {
                Some(0) => return true,
                Some(left) if left > MOST_SKIPPED => return false,
                // A client that waits for `100 Continue` sends nothing.
                _ if self.expects || skipped > MOST_SKIPPED => return false,
                _ => {}
            }
            match self.read_some(&mut [0; 4096]) {
                Ok(count) => skipped += count as u64,
                Err(_) => return false,
            }
        }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.read_some(buffer)?)
    }
}

/// The result of a read within a body, where the end of the stream is an error.
fn came(read: io::Result<usize>) -> Result<usize, Refusal> {
    match read {
        Ok(0) => Err(Refusal::CutShort),
        Ok(count) => Ok(count),
        Err(error) => Err(match Refusal::of(&error) {
            Some(refusal) => refusal.clone(),
            None if error.kind() == io::ErrorKind::TimedOut => Refusal::TooSlow,
            None => Refusal::CutShort,
        }),
    }
}

/// A body's deadline.
struct Clock {
    deadline: Instant,
    /// The bytes that came; with [`Pace::Progress`], since the deadline was set.
    count: u64,
    pace: Pace,
}

enum Pace {
    /// One deadline for the body. It moves with the bytes that come beyond the announced length.
    Total { start: Instant, method: Method, length: u64, request_timeout: Duration },
    /// A new deadline after each [`PROGRESS`] bytes.
    Progress(Duration),
}

impl Clock {
    fn total(method: Method, length: u64, request_timeout: Duration) -> Self {
        let start = Instant::now();
        let deadline = after(start, time(method, length, request_timeout));
        Self { deadline, count: 0, pace: Pace::Total { start, method, length, request_timeout } }
    }

    fn progress(timeout: Duration) -> Self {
        let deadline = after(Instant::now(), timeout);
        Self { deadline, count: 0, pace: Pace::Progress(timeout) }
    }

    fn advance(&mut self, count: u64) {
        self.count += count;
        match self.pace {
            Pace::Total { start, method, length, request_timeout } if self.count > length => {
                self.deadline = after(start, time(method, self.count, request_timeout));
            }
            Pace::Progress(timeout) if self.count >= PROGRESS => *self = Self::progress(timeout),
            _ => {}
        }
    }
}

/// The timeout of a body: `request_timeout` and 1 s per MiB. An upload gets at least 60 s for each
/// started 100 MiB, so that its sender gives up first.
fn time(method: Method, length: u64, request_timeout: Duration) -> Duration {
    let least = match method {
        Method::Put => UPLOAD.as_secs().saturating_mul(length.div_ceil(100 * MIB)),
        _ => 0,
    };
    request_timeout.saturating_add(Duration::from_secs(least.max(length / MIB)))
}

/// A body in memory.
pub struct Loaded<'a> {
    /// The body.
    pub bytes: Vec<u8>,
    reservation: Reservation<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_gets_at_least_the_time_of_the_contract() {
        let request_timeout = Duration::from_secs(30);
        let time = |method, length| time(method, length, request_timeout).as_secs();

        assert_eq!(time(Method::Put, 1), 90);
        assert_eq!(time(Method::Put, 100 * MIB), 130);
        assert_eq!(time(Method::Put, 100 * MIB + 1), 150);
        assert_eq!(time(Method::Put, 1000 * MIB), 1030);
        assert_eq!(time(Method::Post, 1), 30);
        assert_eq!(time(Method::Post, 10 * MIB), 40);
        assert!(time(Method::Put, u64::MAX) > 1 << 40);
    }
}
