//! The semaphore set of the start limiter. It belongs to the host, not to a process:
//!
//! ```text
//!  0  free tokens
//!  1  tokens in total; 0 until the set is initialised
//!  2  the turn: 1 if it is free
//! ```
//!
//! INVARIANT: the kernel undoes every operation but the initialisation when the process dies
//! (`SEM_UNDO`), however it dies. The threads of a process share their undo values, so one thread may
//! release what another acquired.

use std::time::Instant;

use libc::{IPC_CREAT, IPC_NOWAIT, SEM_UNDO, c_int, c_ushort, key_t};
use nix::errno::Errno;

use super::sys::{self, Id, operation};

pub(super) const FREE: c_ushort = 0;
const TOTAL: c_ushort = 1;
pub(super) const TURN: c_ushort = 2;
const SEMAPHORES: c_int = 3;

/// An initialised set.
#[derive(Debug, Clone, Copy)]
pub(super) struct SemaphoreSet {
    id: Id,
    /// How many tokens it has in total.
    total: i16,
}

/// Why tokens were not acquired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcquireError {
    /// The time-out passed, in this phase.
    TimedOut(&'static str),
    /// The set was removed.
    Removed,
    /// System V semaphores do not work here.
    Unusable(Errno),
}

/// What was acquired from one semaphore. Dropping it releases it.
#[derive(Debug)]
pub(crate) struct Permit {
    set: Id,
    semaphore: c_ushort,
    count: i16,
}

impl SemaphoreSet {
    /// Opens the set under `key`, or creates it with `tokens`.
    pub(super) fn open(key: key_t, tokens: i16) -> Result<Self, AcquireError> {
        // No error of this call is transient: a set of another size, for example.
        let id = sys::get(key, SEMAPHORES, IPC_CREAT).map_err(AcquireError::Unusable)?;
        Self::initialise(id, tokens)
    }

    /// The total number of tokens under `key`; 0 if there is no set, or it is not initialised.
    pub(super) fn capacity(key: key_t) -> Result<c_int, Errno> {
        match sys::get(key, SEMAPHORES, 0) {
            Err(Errno::ENOENT) => Ok(0),
            found => sys::value(found?, TOTAL),
        }
    }

    /// Fills a new set in one atomic step, so that no process sees half of it. Without `SEM_UNDO`: the
    /// set outlives the process that created it.
    fn initialise(id: Id, tokens: i16) -> Result<Self, AcquireError> {
        let mut operations = [
            operation(TOTAL, 0, IPC_NOWAIT),
            operation(TOTAL, tokens, 0),
            operation(FREE, tokens, 0),
            operation(TURN, 1, 0),
        ];
        match sys::operate(id, &mut operations, Instant::now()) {
            // EAGAIN: it is initialised already.
            Ok(()) | Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(acquire_error(errno, "")),
        }
        let total = sys::value(id, TOTAL).map_err(|errno| acquire_error(errno, ""))?;
        Ok(Self { id, total: total.try_into().unwrap_or(i16::MAX) })
    }

    /// Acquires `wanted` tokens, at most all, after every earlier caller has acquired its own.
    pub(super) fn acquire(self, wanted: u32, until: Instant) -> Result<Permit, AcquireError> {
        // More than the total would never become free.
        let count = i16::try_from(wanted).unwrap_or(i16::MAX).clamp(1, self.total);
        let acquire = |semaphore, count: i16, phase| {
            let mut operations = [operation(semaphore, -count, SEM_UNDO)];
            let acquired = sys::operate(self.id, &mut operations, until);
            acquired.map_err(|errno| acquire_error(errno, phase))?;
            Ok(Permit { set: self.id, semaphore, count })
        };
        // The kernel serves waiters of one semaphore in FIFO order. Only the holder of the turn waits
        // for tokens, so small requests do not overtake a large one.
        let _turn = acquire(TURN, 1, "in the queue")?;
        acquire(FREE, count, "for processors, first in the queue")
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut operations = [operation(self.semaphore, self.count, SEM_UNDO)];
        match sys::operate(self.set, &mut operations, Instant::now()) {
            // A removed set has no tokens to return.
            Ok(()) | Err(Errno::EIDRM | Errno::EINVAL) => {}
            Err(errno) => log::error!("tokens stay acquired until the runner ends; error={errno}"),
        }
    }
}

fn acquire_error(errno: Errno, phase: &'static str) -> AcquireError {
    match errno {
        Errno::EAGAIN => AcquireError::TimedOut(phase),
        Errno::EIDRM | Errno::EINVAL => AcquireError::Removed,
        errno => AcquireError::Unusable(errno),
    }
}
