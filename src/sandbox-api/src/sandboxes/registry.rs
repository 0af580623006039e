//! The list of sandboxes, which the calls and the thread share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::{Condvar, Mutex};
use crossbeam_channel::Sender;
use sandbox::Cancellation;

use super::error::{Error, Result};
use super::life::{End, State};
use super::managed::ManagedSandbox;
use super::vm::Vm;
use crate::clock::Clock;

/// How long a VM may take to pause or to resume.
pub(super) const TRANSITION: Duration = Duration::from_secs(60);

pub(super) struct Registry {
    pub(super) clock: Arc<dyn Clock>,
    /// Cancelled when the registry stops, with all launches.
    pub(super) cancellation: Cancellation,
    list: Mutex<List>,
    launched: Condvar,
}

#[derive(Default)]
struct List {
    sandboxes: HashMap<String, Arc<ManagedSandbox>>,
    /// Launches that are under way.
    launches: usize,
    /// Wakes the thread; `None` when the registry stops.
    wake: Option<Sender<()>>,
}

/// A launch that is under way. The registry's stop waits until it is dropped.
pub(super) struct Launch<'a>(&'a Registry);

impl Registry {
    pub(super) fn new(clock: Arc<dyn Clock>, wake: Sender<()>) -> Self {
        let list = Mutex::new(List { wake: Some(wake), ..List::default() });
        Self { clock, cancellation: Cancellation::new(), list, launched: Condvar::new() }
    }

    /// Admits a launch, unless the registry stops.
    pub(super) fn begin_launch(&self) -> Result<Launch<'_>> {
        let mut list = self.list.lock();
        if list.wake.is_none() {
            return Err(Error::Stopping);
        }
        list.launches += 1;
        Ok(Launch(self))
    }

    /// Adds a sandbox; `false` if the registry stops.
    pub(super) fn add(&self, sandbox: Arc<ManagedSandbox>) -> bool {
        let mut list = self.list.lock();
        if list.wake.is_none() {
            return false;
        }
        list.sandboxes.insert(sandbox.id().to_owned(), sandbox);
        drop(list);
        self.wake();
        true
    }

    /// The sandbox of this id, unless it has ended: one whose VM is still being ended is in the list.
    pub(super) fn find(&self, id: &str) -> Option<Arc<ManagedSandbox>> {
        let found = self.list.lock().sandboxes.get(id).cloned();
        found.filter(|sandbox| sandbox.status().state != State::Ended)
    }

    pub(super) fn remove(&self, id: &str) {
        self.list.lock().sandboxes.remove(id);
    }

    pub(super) fn all(&self) -> Vec<Arc<ManagedSandbox>> {
        self.list.lock().sandboxes.values().cloned().collect()
    }

    /// Makes the thread look at all sandboxes again.
    pub(super) fn wake(&self) {
        let wake = self.list.lock().wake.clone();
        // A full channel wakes it too.
        let _ = wake.map(|wake| wake.try_send(()));
    }

    /// The time `timeout` from now.
    pub(super) fn end_after(&self, timeout: Duration) -> End {
        End { instant: self.clock.now() + timeout, wall: self.clock.wall() + timeout }
    }

    /// Pauses a VM whose pause has begun. A sandbox that cannot be paused is removed.
    pub(super) fn finish_pause(&self, sandbox: &ManagedSandbox, vm: Arc<Vm>) -> Result<()> {
        let paused = sandbox.life().finish_pause(vm, Instant::now() + TRANSITION);
        match &paused {
            Ok(()) => sandbox.log().record_sandbox("sandbox paused"),
            Err(_) => self.remove(sandbox.id()),
        }
        self.wake();
        paused
    }

    /// Takes no more sandboxes, ends the thread's sleep for ever, and waits for launches.
    pub(super) fn close(&self) {
        self.cancellation.cancel();
        let mut list = self.list.lock();
        list.wake = None;
        while list.launches > 0 {
            list = self.launched.wait(list);
        }
    }

    /// Removes all sandboxes.
    pub(super) fn take_all(&self) -> Vec<Arc<ManagedSandbox>> {
        self.list.lock().sandboxes.drain().map(|(_, sandbox)| sandbox).collect()
    }
}

impl Drop for Launch<'_> {
    fn drop(&mut self) {
        self.0.list.lock().launches -= 1;
        self.0.launched.notify_all();
    }
}
