//! The gate that VMs of this host start through, whichever runner starts them: so that a burst of
//! starts is slow rather than timed out.
//!
//! A start takes a token for each of its VM's processors, and has them until its guest has its
//! state; there are as many as the host has processors. The tokens are a set of System V semaphores,
//! the one object of the kernel that counts across processes, waits with a time-out and takes back
//! what a killed process held. It stays on the host: `set.rs`.
//!
//! ```text
//!  caller                       gate-1a2b3c4d
//!  enter ─────────────────────▶ semtimedop: the turn, then tokens
//!        ◀── tokens or refusal
//!        ◀── call_off (from any thread: the VM is to be killed)
//! ```
//!
//! Nothing but a signal ends a `semtimedop`, so it has a thread of its own, which a start that is
//! called off leaves behind: it gives back what it gets, when its turn comes or its time is up.

mod set;
mod sys;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Builder};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use libc::key_t;
use nix::errno::Errno;
use sandbox::SandboxId;

pub(crate) use self::set::Held;
use self::set::{Refusal, Set};
use crate::{Error, Result};

/// The key of the host's set: "vmgt".
pub(crate) const KEY: key_t = 0x766d_6774;
/// How long a start may wait for its turn: many slow ones may be before it.
const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// Those of this process that wait. One table for all factories, as a VM is killed by its id alone.
static WAITING: Mutex<BTreeMap<SandboxId, Sender<()>>> = Mutex::new(BTreeMap::new());

/// What starts go through.
#[derive(Debug)]
pub(crate) struct Gate {
    key: key_t,
    /// How many tokens the set gets if this makes it.
    tokens: i16,
    patience: Duration,
    /// Whether it was said that there is none.
    is_missed: AtomicBool,
}

impl Gate {
    /// The one of this host.
    pub(crate) fn of_host() -> Self {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::new(KEY, processors.try_into().unwrap_or(i16::MAX), PATIENCE)
    }

    fn new(key: key_t, tokens: i16, patience: Duration) -> Self {
        Self { key, tokens, patience, is_missed: AtomicBool::new(false) }
    }

    /// Waits until a VM with so many processors may start, in the order of calls on the whole host.
    /// It may while what this returns is kept; that is none if there is no gate.
    pub(crate) fn enter(&self, id: SandboxId, vcpus: u32) -> Result<Option<Held>> {
        let (key, tokens, until) = (self.key, self.tokens, Instant::now() + self.patience);
        let (tell, told) = bounded(1);
        let waiting = Waiting::new(id);
        let thread = Builder::new()
            .name(format!("gate-{}", id.short()))
            .spawn(move || {
                // Nobody hears it if the start was called off: then it is given back here.
                let _ = tell.send(take(key, tokens, vcpus, until));
            })
            .map_err(|source| Error::Thread { id, source })?;
        let taken = select! {
            recv(told) -> taken => taken.map_err(|_| Error::Panicked { id })?,
            recv(waiting.called_off) -> _ => return Err(Error::CalledOff { id }),
        };
        // It has nothing left to do.
        thread.join().map_err(|_| Error::Panicked { id })?;
        match taken {
            Ok(held) => Ok(Some(held)),
            Err(Refusal::TimedOut(phase)) => {
                Err(Error::NoTurn { phase, after: self.patience, key })
            }
            Err(refusal) => {
                self.miss(&refusal);
                Ok(None)
            }
        }
    }

    fn miss(&self, refusal: &Refusal) {
        if !self.is_missed.swap(true, Ordering::Relaxed) {
            log::warn!("vms start without a gate; semaphores={:#x} reason={refusal:?}", self.key);
        }
    }
}

/// How many tokens this host's gate has; 0 if nothing was started here yet.
pub(crate) fn look() -> std::result::Result<i32, Errno> {
    Set::look(KEY)
}

/// Ends a VM's wait for its turn, if it waits in this process.
pub(crate) fn call_off(id: SandboxId) {
    if let Some(waiting) = waiting().get(&id) {
        // Full means that it was told already.
        let _ = waiting.try_send(());
    }
}

/// A set that is removed meanwhile is made anew.
fn take(key: key_t, tokens: i16, vcpus: u32, until: Instant) -> std::result::Result<Held, Refusal> {
    loop {
        match Set::open(key, tokens).and_then(|set| set.take(vcpus, until)) {
            Err(Refusal::Removed) if Instant::now() < until => {}
            other => return other,
        }
    }
}

/// The entry of a VM that waits in the table of those; it goes with this.
struct Waiting {
    id: SandboxId,
    called_off: Receiver<()>,
}

impl Waiting {
    fn new(id: SandboxId) -> Self {
        let (call_off, called_off) = bounded(1);
        waiting().insert(id, call_off);
        Self { id, called_off }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        waiting().remove(&self.id);
    }
}

fn waiting() -> MutexGuard<'static, BTreeMap<SandboxId, Sender<()>>> {
    // Nothing panics while it has the lock.
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}
