//! Limits concurrent VM starts on a host to its CPU count, across all runner processes.
//!
//! It is a FIFO semaphore with one token per host CPU. A start acquires one token per vCPU and
//! releases them when its guest has its state. Without it a burst of starts would time out; with it
//! the starts take longer.
//!
//! The tokens are a System V semaphore set, the only kernel object that counts across processes, waits
//! with a time-out and returns what a killed process held. The set stays on the host (`semaphore.rs`).
//!
//! ```text
//!  caller                          start-1a2b3c4d
//!  acquire ──────────────────────▶ semtimedop: the turn, then the tokens
//!          ◀── permit or error
//!          ◀── cancelled (Cancellation::cancel, from any thread)
//! ```
//!
//! Only a signal interrupts `semtimedop`, so the wait has a thread of its own. A cancelled start leaves
//! it behind; it releases what it acquires when its turn comes, or ends at its time-out.

mod semaphore;
mod sys;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select};
use libc::key_t;
use nix::errno::Errno;
use sandbox::{Cancellation, SandboxId};

pub(crate) use self::semaphore::Permit;
use self::semaphore::{AcquireError, SemaphoreSet};
use crate::{Error, Result};

/// The key of the host's semaphore set: "vmgt".
pub(crate) const KEY: key_t = 0x766d_6774;
/// How long a start may wait in the queue. Many slow ones may be ahead of it.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Limits how many VMs start at once.
#[derive(Debug)]
pub(crate) struct StartLimiter {
    key: key_t,
    /// How many tokens the set gets if this process creates it.
    tokens: i16,
    timeout: Duration,
    /// Whether the warning that there is no limit was logged.
    has_warned: AtomicBool,
}

impl StartLimiter {
    /// The limiter that all runners of this host share.
    pub(crate) fn of_host() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::new(KEY, processors.try_into().unwrap_or(i16::MAX), QUEUE_TIMEOUT)
    }

    fn new(key: key_t, tokens: i16, timeout: Duration) -> Self {
        Self { key, tokens, timeout, has_warned: AtomicBool::new(false) }
    }

    /// Waits until a VM with `vcpus` may start, in the order of calls on the whole host. It may start
    /// while the permit is held. `None` if this host has no semaphores, so starts are not limited.
    pub(crate) fn acquire(
        &self,
        id: SandboxId,
        vcpus: u32,
        cancellation: &Cancellation,
    ) -> Result<Option<Permit>> {
        let (key, tokens, until) = (self.key, self.tokens, Instant::now() + self.timeout);
        let (sender, result) = bounded(1);
        let thread = Builder::new()
            .name(format!("start-{}", id.short()))
            .spawn(move || {
                // A cancelled start does not receive it: the permit is then dropped here.
                let _ = sender.send(acquire(key, tokens, vcpus, until));
            })
            .map_err(|source| Error::Thread { id, source })?;
        let acquired = select! {
            recv(result) -> acquired => acquired.map_err(|_| Error::Panicked { id })?,
            recv(cancellation.cancelled()) -> _ => return Err(Error::StartCancelled { id }),
        };
        // It has nothing left to do.
        thread.join().map_err(|_| Error::Panicked { id })?;
        match acquired {
            Ok(permit) => Ok(Some(permit)),
            Err(AcquireError::TimedOut(phase)) => {
                Err(Error::StartQueueTimeout { phase, after: self.timeout, key })
            }
            Err(error) => {
                self.warn_once(&error);
                Ok(None)
            }
        }
    }

    fn warn_once(&self, error: &AcquireError) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            log::warn!("vm starts are not limited; semaphores={:#x} reason={error:?}", self.key);
        }
    }
}

/// How many tokens this host's semaphore set has; 0 if nothing was started here yet.
pub(crate) fn capacity() -> std::result::Result<i32, Errno> {
    SemaphoreSet::capacity(KEY)
}

/// Creates the set again if it is removed meanwhile.
fn acquire(
    key: key_t,
    tokens: i16,
    vcpus: u32,
    until: Instant,
) -> std::result::Result<Permit, AcquireError> {
    loop {
        match SemaphoreSet::open(key, tokens).and_then(|set| set.acquire(vcpus, until)) {
            Err(AcquireError::Removed) if Instant::now() < until => {}
            other => return other,
        }
    }
}
