//! A request's body as it comes: its length is known, its time is bounded.

use std::io;
use std::time::{Duration, Instant};

use super::head::{Head, Method};
use super::memory::{Account, Memory, Reservation, SMALL};
use super::shared::Shared;
use super::wire::Wire;
use crate::blob::{CHUNK, Input};
use crate::clock::after;
use crate::{Refusal, Result};

const MIB: u64 = 1024 * 1024;

/// The time of an upload per started 100 MiB.
const UPLOAD: Duration = Duration::from_secs(60);

/// The size of one read.
const PIECE: usize = 16 * 1024;

/// The body of the request that is just being handled.
pub(crate) struct Body<'a> {
    wire: &'a mut Wire,
    memory: &'a Memory,
    left: u64,
    deadline: Instant,
    /// The client waits for `100 Continue`.
    expects: bool,
}

impl<'a> Body<'a> {
    pub(super) fn new(wire: &'a mut Wire, shared: &'a Shared, head: &Head) -> Self {
        let length = head.length;
        let deadline =
            after(Instant::now(), time(head.method, length, shared.limits.request_timeout));
        let expects = head.expects_continue() && length > 0;
        Self { wire, memory: &shared.memory, left: length, deadline, expects }
    }

    /// The number of bytes that have not been read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    /// All of it, if it has at most `limit` bytes and there is room in memory for it. Room is taken
    /// as bytes come, so that who announces much and sends nothing takes nothing.
    pub(crate) fn read(&mut self, limit: u64, account: Account) -> Result<Loaded<'a>> {
        if self.left > limit {
            return Err(Refusal::TooLarge { limit, unit: "bytes" }.into());
        }
        let is_small = self.left <= SMALL;
        let mut reservation = self.memory.open(account);
        let mut bytes = Vec::new();
        let mut piece = vec![0; PIECE];
        while self.left > 0 {
            let count = self.take(&mut piece)?;
            if !is_small {
                reservation.grow(count as u64)?;
            }
            bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
        }
        Ok(Loaded { bytes, _reservation: reservation })
    }

    /// Whether the rest could be dropped, so that the connection can be used again.
    pub(super) fn skip(&mut self) -> bool {
        let mut buffer = [0; 4096];
        // A client that waits for `100 Continue` sends nothing.
        if self.expects || self.left > CHUNK as u64 {
            return self.left == 0;
        }
        while self.left > 0 {
            if self.take(&mut buffer).is_err() {
                return false;
            }
        }
        true
    }
}

impl Input for Body<'_> {
    fn take(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let Some(buffer) = buffer.get_mut(..room).filter(|buffer| !buffer.is_empty()) else {
            return Ok(0);
        };
        if std::mem::take(&mut self.expects) {
            self.wire.send(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(|_| Refusal::CutShort)?;
        }
        let count = match self.wire.read(buffer, self.deadline) {
            Ok(0) => return Err(Refusal::CutShort.into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(Refusal::TooSlow.into());
            }
            Err(_) => return Err(Refusal::CutShort.into()),
        };
        self.left -= count as u64;
        Ok(count)
    }
}

/// The timeout of a body: `request_timeout` and 1 s per MiB. An upload gets at least the time of the
/// contract, so that the sender gives up first.
fn time(method: Method, length: u64, request_timeout: Duration) -> Duration {
    let least = match method {
        Method::Put => UPLOAD.as_secs().saturating_mul(length.div_ceil(100 * MIB)),
        _ => 0,
    };
    request_timeout.saturating_add(Duration::from_secs(least.max(length / MIB)))
}

/// A body in memory.
pub(crate) struct Loaded<'a> {
    pub(crate) bytes: Vec<u8>,
    _reservation: Reservation<'a>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_gets_the_contracts_time_and_the_request_timeout() {
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
