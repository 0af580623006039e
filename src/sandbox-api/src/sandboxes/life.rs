//! The states of a sandbox.
//!
//! ```text
//!            begin_pause            finish_pause
//! running ───────────────▶ pausing ───────────────▶ paused ──resume──▶ resuming ──▶ running
//!    └──────────── end: by a call, at its time-out, with its VM ──▶ ended        (from all of them)
//! ```
//!
//! INVARIANT: a thread that takes the VM out of the state to pause or resume it puts it back, unless the
//! sandbox ended meanwhile: then it drops it. The lock is not held while the VM is paused, resumed or ended.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::event::Event;
use base::sync::{Condvar, Mutex, MutexGuard};
use crossbeam_channel::{Receiver, Sender, bounded};
use sandbox::{Network, SandboxConfig};

use super::error::{Error, Result};
use super::vm::{RunningSandbox, Vm};

/// How long a call waits for a pause or a resume of another call.
const TRANSITION: Duration = Duration::from_secs(60);

/// The state of a sandbox.
pub(super) struct Life {
    /// The sandbox's id, for errors.
    id: String,
    state: Mutex<Now>,
    changed: Condvar,
    ended: Receiver<Infallible>,
}

struct Now {
    phase: Phase,
    /// When it is ended or paused, if it runs.
    end: End,
    /// Dropped at the sandbox's end.
    ending: Option<Sender<Infallible>>,
}

enum Phase {
    Running(Run),
    Pausing,
    Paused(Arc<Vm>),
    Resuming,
    Ended,
}

/// The time from a start or a resume to the next pause or the end.
struct Run {
    vm: Arc<Vm>,
    /// Set at its end.
    closed: Arc<Event>,
}

/// What a sandbox does, as callers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It takes calls, or is about to.
    Running,
    /// It is paused, or about to be.
    Paused,
    /// It is gone.
    Ended,
}

/// A sandbox's state and end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// What it does.
    pub state: State,
    /// When it is ended or paused; the last such time if it is paused.
    pub end_at: SystemTime,
}

/// A time as both clocks have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
}

/// What is to be done with a VM whose time is over.
pub(super) enum Expired {
    Pause(Arc<Vm>),
    End(Arc<Vm>),
}

impl Life {
    /// That of a sandbox that runs until `end`.
    pub(super) fn new(id: String, vm: Vm, closed: Arc<Event>, end: End) -> Self {
        let (ending, ended) = bounded(0);
        let phase = Phase::Running(Run { vm: Arc::new(vm), closed });
        let state = Mutex::new(Now { phase, end, ending: Some(ending) });
        Self { id, state, changed: Condvar::new(), ended }
    }

    pub(super) fn ended(&self) -> &Receiver<Infallible> {
        &self.ended
    }

    pub(super) fn running(&self) -> Option<RunningSandbox> {
        match &self.state.lock().phase {
            Phase::Running(run) => {
                Some(RunningSandbox::new(Arc::clone(&run.vm), Arc::clone(&run.closed)))
            }
            _ => None,
        }
    }

    pub(super) fn status(&self) -> Status {
        let now = self.state.lock();
        let state = match now.phase {
            Phase::Running(_) | Phase::Resuming => State::Running,
            Phase::Pausing | Phase::Paused(_) => State::Paused,
            Phase::Ended => State::Ended,
        };
        Status { state, end_at: now.end.wall }
    }

    /// Sets the end of a running sandbox. With `only_later` it is not made earlier.
    pub(super) fn set_end(&self, end: End, only_later: bool) -> Result<()> {
        let mut now = self.settled()?;
        self.running_vm(&now)?;
        if !only_later || end.instant > now.end.instant {
            now.end = end;
        }
        Ok(())
    }

    /// Begins a pause: closes all streams. [`Life::finish_pause`] must follow.
    pub(super) fn begin_pause(&self) -> Result<Arc<Vm>> {
        if matches!(self.state.lock().phase, Phase::Pausing) {
            return Err(Error::Pausing { id: self.id.clone() });
        }
        let mut now = self.settled()?;
        let vm = self.running_vm(&now)?;
        now.phase = Phase::Pausing;
        Ok(vm)
    }

    /// Pauses the VM. After an error the sandbox is ended, as its VM can only be ended.
    pub(super) fn finish_pause(&self, vm: Arc<Vm>, deadline: Instant) -> Result<()> {
        if let Err(source) = vm.pause(deadline) {
            self.end_with(vm);
            return Err(Error::Pause { id: self.id.clone(), source });
        }
        self.put(vm, None, Phase::Paused)
    }

    /// Resumes a paused sandbox until `end`; `false` if it runs already. Without room it stays paused.
    pub(super) fn resume(&self, end: End, deadline: Instant) -> Result<bool> {
        let closed = event()?;
        let vm = {
            let mut now = self.settled()?;
            match std::mem::replace(&mut now.phase, Phase::Resuming) {
                Phase::Paused(vm) => vm,
                Phase::Ended => {
                    now.phase = Phase::Ended;
                    return Err(self.not_found());
                }
                other => {
                    now.phase = other;
                    return Ok(false);
                }
            }
        };
        if let Err(error) = vm.take_cpus() {
            self.put(vm, None, Phase::Paused)?;
            return Err(error);
        }
        if let Err(source) = vm.resume(deadline) {
            self.end_with(vm);
            return Err(Error::Resume { id: self.id.clone(), source });
        }
        self.put(vm, Some(end), |vm| Phase::Running(Run { vm, closed }))?;
        Ok(true)
    }

    /// Puts a network in force, which `network` makes of the VM's configuration. After an error of the VM
    /// the sandbox is ended.
    pub(super) fn set_network(
        &self,
        network: impl FnOnce(&SandboxConfig) -> Result<Network>,
        deadline: Instant,
    ) -> Result<()> {
        let vm = {
            let now = self.settled()?;
            self.running_vm(&now)?
        };
        let network = network(&vm.config())?;
        if let Err(source) = vm.set_network(network, deadline) {
            self.end_with(vm);
            return Err(Error::Network { id: self.id.clone(), source });
        }
        Ok(())
    }

    /// Ends it: it is gone for all calls and its streams are closed when this returns. The caller ends the
    /// VM, unless a thread that pauses or resumes it has it.
    pub(super) fn end(&self) -> Option<Arc<Vm>> {
        let mut now = self.state.lock();
        let vm = match std::mem::replace(&mut now.phase, Phase::Ended) {
            Phase::Running(run) => Some(Arc::clone(&run.vm)),
            Phase::Paused(vm) => Some(vm),
            _ => None,
        };
        now.ending = None;
        drop(now);
        self.changed.notify_all();
        vm
    }

    /// When its time is over, if it runs.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let now = self.state.lock();
        matches!(now.phase, Phase::Running(_)).then_some(now.end.instant)
    }

    /// Begins what its time-out does, if that is over.
    pub(super) fn expire(&self, time: Instant, is_paused: bool) -> Option<Expired> {
        {
            let mut now = self.state.lock();
            let vm = match &now.phase {
                Phase::Running(run) if now.end.instant <= time => Arc::clone(&run.vm),
                _ => return None,
            };
            if is_paused {
                now.phase = Phase::Pausing;
                return Some(Expired::Pause(vm));
            }
        }
        self.end().map(Expired::End)
    }

    /// Disconnects when the VM ends, unless it is being paused or resumed.
    pub(super) fn vm_ended(&self) -> Option<Receiver<()>> {
        match &self.state.lock().phase {
            Phase::Running(Run { vm, .. }) | Phase::Paused(vm) => Some(vm.ended()),
            _ => None,
        }
    }

    /// Waits until it is neither being paused nor being resumed.
    fn settled(&self) -> Result<MutexGuard<'_, Now>> {
        let deadline = Instant::now() + TRANSITION;
        let mut now = self.state.lock();
        while matches!(now.phase, Phase::Pausing | Phase::Resuming) {
            if deadline <= Instant::now() {
                return Err(Error::Busy { id: self.id.clone() });
            }
            now = self.changed.wait_until(now, Some(deadline));
        }
        Ok(now)
    }

    fn running_vm(&self, now: &Now) -> Result<Arc<Vm>> {
        match &now.phase {
            Phase::Running(run) => Ok(Arc::clone(&run.vm)),
            Phase::Paused(_) => Err(Error::Paused { id: self.id.clone() }),
            _ => Err(self.not_found()),
        }
    }

    /// Puts the VM back, unless the sandbox ended meanwhile: then the VM is ended.
    fn put(
        &self,
        vm: Arc<Vm>,
        end: Option<End>,
        phase: impl FnOnce(Arc<Vm>) -> Phase,
    ) -> Result<()> {
        let mut now = self.state.lock();
        if matches!(now.phase, Phase::Ended) {
            drop(now);
            vm.end(&self.id);
            return Err(self.not_found());
        }
        now.phase = phase(vm);
        now.end = end.unwrap_or(now.end);
        drop(now);
        self.changed.notify_all();
        Ok(())
    }

    /// Ends it with a VM that was taken out of its state, or is still in it.
    fn end_with(&self, vm: Arc<Vm>) {
        drop(self.end());
        vm.end(&self.id);
    }

    fn not_found(&self) -> Error {
        Error::NotFound { id: self.id.clone() }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.closed.set();
    }
}

/// An event for the streams and calls of a sandbox that is to run.
pub(super) fn event() -> Result<Arc<Event>> {
    let event = Event::new().map_err(|errno| Error::Event { source: errno.into() })?;
    Ok(Arc::new(event))
}
