//! The semaphore set behind the gate. It belongs to the host and not to any process:
//!
//! ```text
//!  0  tokens that are free
//!  1  how many there are in all; 0 as long as nobody has initialised the set
//!  2  the turn: 1 if nobody has it
//! ```
//!
//! INVARIANT: every operation but the first one is undone by the kernel when its process dies
//! (`SEM_UNDO`), however it dies. Threads of a process share what is to be undone, so that one may
//! give back what another took.

use std::time::Instant;

use libc::{IPC_CREAT, IPC_NOWAIT, SEM_UNDO, c_int, c_ushort, key_t};
use nix::errno::Errno;

use super::sys::{self, Id, operation};

pub(super) const FREE: c_ushort = 0;
const TOTAL: c_ushort = 1;
pub(super) const TURN: c_ushort = 2;
const SEMAPHORES: c_int = 3;

/// A set, initialised.
#[derive(Debug, Clone, Copy)]
pub(super) struct Set {
    id: Id,
    /// How many tokens it has in all.
    total: i16,
}

/// What could not be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The time was up, in this phase.
    TimedOut(&'static str),
    /// The set was removed.
    Removed,
    /// The kernel does not do such a thing here.
    Unusable(Errno),
}

/// What was taken of a semaphore; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    set: Id,
    semaphore: c_ushort,
    count: i16,
}

impl Set {
    /// The set under `key`, made and filled with `tokens` unless somebody has done that.
    pub(super) fn open(key: key_t, tokens: i16) -> Result<Self, Refusal> {
        // Whatever is wrong here, another size for example, is so the next time, too.
        let id = sys::get(key, SEMAPHORES, IPC_CREAT).map_err(Refusal::Unusable)?;
        Self::initialise(id, tokens)
    }

    /// How many tokens the set under `key` has; 0 if there is none, or nobody has initialised it.
    pub(super) fn look(key: key_t) -> Result<c_int, Errno> {
        match sys::get(key, SEMAPHORES, 0) {
            Err(Errno::ENOENT) => Ok(0),
            found => sys::value(found?, TOTAL),
        }
    }

    /// All at once, so that nobody sees half of it, whoever dies. It is not to be
    /// undone: the set is to outlive whoever made it.
    fn initialise(id: Id, tokens: i16) -> Result<Self, Refusal> {
        let mut operations = [
            operation(TOTAL, 0, IPC_NOWAIT),
            operation(TOTAL, tokens, 0),
            operation(FREE, tokens, 0),
            operation(TURN, 1, 0),
        ];
        match sys::operate(id, &mut operations, Instant::now()) {
            // Somebody has done it.
            Ok(()) | Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(refusal(errno, "")),
        }
        let total = sys::value(id, TOTAL).map_err(|errno| refusal(errno, ""))?;
        Ok(Self { id, total: total.try_into().unwrap_or(i16::MAX) })
    }

    /// Takes tokens, `wanted` or all that there are, when everybody who came before has got theirs.
    pub(super) fn take(self, wanted: u32, until: Instant) -> Result<Held, Refusal> {
        // More than there are would be waited for in vain.
        let count = i16::try_from(wanted).unwrap_or(i16::MAX).clamp(1, self.total);
        let take = |semaphore, count: i16, phase| {
            let mut operations = [operation(semaphore, -count, SEM_UNDO)];
            let taken = sys::operate(self.id, &mut operations, until);
            taken.map_err(|errno| refusal(errno, phase))?;
            Ok(Held { set: self.id, semaphore, count })
        };
        // The kernel serves those who wait for the turn in the order in which they came. Who has it
        // is the only one who waits for tokens, so small requests do not overtake a large one.
        let _turn = take(TURN, 1, "in the queue")?;
        take(FREE, count, "for processors, first in the queue")
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut operations = [operation(self.semaphore, self.count, SEM_UNDO)];
        match sys::operate(self.set, &mut operations, Instant::now()) {
            // With a set that was removed its tokens are gone, too.
            Ok(()) | Err(Errno::EIDRM | Errno::EINVAL) => {}
            Err(errno) => log::error!("tokens stay taken until the runner ends; error={errno}"),
        }
    }
}

fn refusal(errno: Errno, phase: &'static str) -> Refusal {
    match errno {
        Errno::EAGAIN => Refusal::TimedOut(phase),
        Errno::EIDRM | Errno::EINVAL => Refusal::Removed,
        errno => Refusal::Unusable(errno),
    }
}
