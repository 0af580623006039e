//! One sandbox of the registry.
//!
//! ```text
//!            begin_pause            finish_pause
//! running ───────────────▶ pausing ───────────────▶ paused ──begin_resume──▶ resuming ──▶ running
//!    └──────────── end: by a call, at its time-out, with its VM ──▶ ended        (from all of them)
//! ```
//!
//! INVARIANT: a thread that takes the VM out of the state to pause or resume it puts it back, unless the
//! sandbox ended meanwhile: then it drops it. Nothing holds the lock while the VM is paused, resumed or ended.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::error::chain;
use base::sync::{Condvar, Mutex, MutexGuard};
use crossbeam_channel::{Receiver, Sender, bounded};
use sandbox::{Sandbox, SandboxConfig};

use super::budget::Share;
use super::error::{Error, Result};
use super::request::{CreateRequest, Lifecycle};
use crate::launcher::{Launched, NetworkRequest, Reservation, Template};
use crate::metrics::Samples;

/// How long a call waits for a pause or a resume of another call.
const TRANSITION: Duration = Duration::from_secs(60);

/// A sandbox of the registry, with what its creator gave.
pub struct ManagedSandbox {
    id: String,
    key: String,
    template: Template,
    request: CreateRequest,
    envd_token: String,
    traffic_token: Option<String>,
    started_at: SystemTime,
    timeout: Duration,
    samples: Samples,
    ended: Receiver<Infallible>,
    life: Mutex<Life>,
    changed: Condvar,
}

struct Life {
    phase: Phase,
    /// When it is ended or paused, if it runs.
    end: Instant,
    end_at: SystemTime,
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
    /// Dropped at its end.
    _closing: Sender<Infallible>,
    closed: Receiver<Infallible>,
}

/// A VM with what it takes. The order of the fields is the order in which they are dropped.
pub(super) struct Vm {
    sandbox: Box<dyn Sandbox>,
    reservation: Mutex<Box<dyn Reservation>>,
    share: Mutex<Share>,
    config: SandboxConfig,
}

/// A sandbox that runs, for calls on it. The VM stays until this is dropped, so it is held for one call
/// with a deadline and not while a stream is open.
#[derive(Clone)]
pub struct RunningSandbox {
    vm: Arc<Vm>,
    closed: Receiver<Infallible>,
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

/// What a sandbox is made of.
pub(super) struct Parts {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) template: Template,
    pub(super) request: CreateRequest,
    pub(super) envd_token: String,
    pub(super) traffic_token: Option<String>,
    pub(super) timeout: Duration,
    pub(super) vm: Vm,
}

impl ManagedSandbox {
    pub(super) fn new(parts: Parts, started_at: SystemTime, end: End) -> Self {
        let Parts { id, key, template, request, envd_token, traffic_token, timeout, vm } = parts;
        let (ending, ended) = bounded(0);
        let phase = Phase::Running(Run::new(Arc::new(vm)));
        let (end, end_at) = (end.instant, end.wall);
        let life = Mutex::new(Life { phase, end, end_at, ending: Some(ending) });
        let changed = Condvar::new();
        Self {
            id,
            key,
            template,
            request,
            envd_token,
            traffic_token,
            started_at,
            timeout,
            samples: Samples::default(),
            ended,
            life,
            changed,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The id of the key that it belongs to.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its template.
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// What its creator keeps with it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.request.metadata
    }

    /// The environment of its commands.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.request.env
    }

    /// What happens at its time-out, and to requests after it.
    pub fn lifecycle(&self) -> Lifecycle {
        self.request.lifecycle
    }

    /// The network that it was created with.
    pub fn network(&self) -> &NetworkRequest {
        &self.request.network
    }

    /// The Host header of requests to its ports; `${PORT}` stands for the port.
    pub fn mask_request_host(&self) -> Option<&str> {
        self.request.mask_request_host.as_deref()
    }

    /// The token of calls on its commands and files.
    pub fn envd_token(&self) -> &str {
        &self.envd_token
    }

    /// The token of requests to its ports, unless they are public.
    pub fn traffic_token(&self) -> Option<&str> {
        self.traffic_token.as_deref()
    }

    /// When it was created.
    pub fn started_at(&self) -> SystemTime {
        self.started_at
    }

    /// The time-out that it was created with.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// What it used.
    pub fn metrics(&self) -> &Samples {
        &self.samples
    }

    /// Disconnects when it has ended for good. A pause does not end it.
    pub fn ended(&self) -> &Receiver<Infallible> {
        &self.ended
    }

    /// The sandbox for calls, if it runs. See [`Sandboxes::enter`](super::Sandboxes::enter), which resumes
    /// one that is to be resumed by requests.
    pub fn running(&self) -> Option<RunningSandbox> {
        match &self.life.lock().phase {
            Phase::Running(run) => {
                Some(RunningSandbox { vm: Arc::clone(&run.vm), closed: run.closed.clone() })
            }
            _ => None,
        }
    }

    /// Its state and end.
    pub fn status(&self) -> Status {
        let life = self.life.lock();
        let state = match life.phase {
            Phase::Running(_) | Phase::Resuming => State::Running,
            Phase::Pausing | Phase::Paused(_) => State::Paused,
            Phase::Ended => State::Ended,
        };
        Status { state, end_at: life.end_at }
    }

    /// Sets the end of a running sandbox. With `only_later` it is not made earlier.
    pub(super) fn set_end(&self, end: End, only_later: bool) -> Result<()> {
        let mut life = self.settled()?;
        match life.phase {
            Phase::Running(_) => {}
            Phase::Paused(_) => return Err(Error::Paused { id: self.id.clone() }),
            _ => return Err(self.not_found()),
        }
        if !only_later || end.instant > life.end {
            (life.end, life.end_at) = (end.instant, end.wall);
        }
        Ok(())
    }

    /// Waits until it is neither paused nor resumed at this time.
    fn settled(&self) -> Result<MutexGuard<'_, Life>> {
        let deadline = Instant::now() + TRANSITION;
        let mut life = self.life.lock();
        while matches!(life.phase, Phase::Pausing | Phase::Resuming) {
            if deadline <= Instant::now() {
                return Err(Error::Busy { id: self.id.clone() });
            }
            life = self.changed.wait_until(life, Some(deadline));
        }
        Ok(life)
    }

    /// Begins a pause: closes all streams. [`ManagedSandbox::finish_pause`] must follow.
    pub(super) fn begin_pause(&self) -> Result<Arc<Vm>> {
        if matches!(self.life.lock().phase, Phase::Pausing) {
            return Err(Error::Pausing { id: self.id.clone() });
        }
        let mut life = self.settled()?;
        match &life.phase {
            Phase::Running(run) => {
                let vm = Arc::clone(&run.vm);
                life.phase = Phase::Pausing;
                Ok(vm)
            }
            Phase::Paused(_) => Err(Error::Paused { id: self.id.clone() }),
            _ => Err(self.not_found()),
        }
    }

    /// Pauses the VM. After an error the sandbox is ended, as its VM can only be ended.
    pub(super) fn finish_pause(&self, vm: Arc<Vm>, deadline: Instant) -> Result<()> {
        if let Err(source) = vm.sandbox.park(deadline) {
            self.end();
            vm.end(&self.id);
            return Err(Error::Pause { id: self.id.clone(), source });
        }
        vm.reservation.lock().pause();
        vm.share.lock().pause();
        self.put(vm, Phase::Paused)
    }

    /// Resumes a paused sandbox until `end`; `false` if it runs already. Without room it stays paused.
    pub(super) fn resume(&self, end: End, deadline: Instant) -> Result<bool> {
        let vm = {
            let mut life = self.settled()?;
            match std::mem::replace(&mut life.phase, Phase::Resuming) {
                Phase::Paused(vm) => vm,
                Phase::Ended => {
                    life.phase = Phase::Ended;
                    return Err(self.not_found());
                }
                other => {
                    life.phase = other;
                    return Ok(false);
                }
            }
        };
        if let Err(error) = vm.take_cpus() {
            self.put(vm, Phase::Paused)?;
            return Err(error);
        }
        if let Err(source) = vm.sandbox.assign(&vm.config, deadline) {
            self.end();
            vm.end(&self.id);
            return Err(Error::Resume { id: self.id.clone(), source });
        }
        {
            let mut life = self.life.lock();
            (life.end, life.end_at) = (end.instant, end.wall);
        }
        self.put(vm, |vm| Phase::Running(Run::new(vm)))?;
        Ok(true)
    }

    /// Ends it: it is gone for all calls and its streams are closed when this returns. The caller ends the
    /// VM, unless a thread that pauses or resumes it has it.
    pub(super) fn end(&self) -> Option<Arc<Vm>> {
        let mut life = self.life.lock();
        let vm = match std::mem::replace(&mut life.phase, Phase::Ended) {
            Phase::Running(run) => Some(run.vm),
            Phase::Paused(vm) => Some(vm),
            _ => None,
        };
        life.ending = None;
        drop(life);
        self.changed.notify_all();
        vm
    }

    /// When its time is over, if it runs.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let life = self.life.lock();
        matches!(life.phase, Phase::Running(_)).then_some(life.end)
    }

    /// Begins what its time-out does, if that is over.
    pub(super) fn expire(&self, now: Instant) -> Option<Expired> {
        {
            let mut life = self.life.lock();
            match &life.phase {
                Phase::Running(run) if life.end <= now => {
                    if self.request.lifecycle.pauses_on_timeout {
                        let vm = Arc::clone(&run.vm);
                        life.phase = Phase::Pausing;
                        return Some(Expired::Pause(vm));
                    }
                }
                _ => return None,
            }
        }
        self.end().map(Expired::End)
    }

    /// Disconnects when the VM ends, unless it is being paused or resumed.
    pub(super) fn vm_ended(&self) -> Option<Receiver<()>> {
        match &self.life.lock().phase {
            Phase::Running(run) => Some(run.vm.sandbox.ended()),
            Phase::Paused(vm) => Some(vm.sandbox.ended()),
            _ => None,
        }
    }

    /// Puts the VM back, unless the sandbox ended meanwhile: then the VM is ended.
    fn put(&self, vm: Arc<Vm>, phase: impl FnOnce(Arc<Vm>) -> Phase) -> Result<()> {
        let mut life = self.life.lock();
        if matches!(life.phase, Phase::Ended) {
            drop(life);
            vm.end(&self.id);
            return Err(self.not_found());
        }
        life.phase = phase(vm);
        drop(life);
        self.changed.notify_all();
        Ok(())
    }

    fn not_found(&self) -> Error {
        Error::NotFound { id: self.id.clone() }
    }
}

impl Run {
    fn new(vm: Arc<Vm>) -> Self {
        let (closing, closed) = bounded(0);
        Self { vm, _closing: closing, closed }
    }
}

impl Vm {
    pub(super) fn new(launched: Launched, share: Share) -> Self {
        let Launched { sandbox, config, reservation } = launched;
        Self { sandbox, reservation: Mutex::new(reservation), share: Mutex::new(share), config }
    }

    /// Kills it, if no call uses it; else the last call's end does.
    pub(super) fn end(self: Arc<Self>, id: &str) {
        let Some(vm) = Arc::into_inner(self) else { return };
        if let Err(error) = vm.sandbox.kill() {
            log::error!(
                "a sandbox's VM did not end in order; sandbox={id} error={}",
                chain(&error)
            );
        }
    }

    /// Takes the vCPUs that the pause gave back.
    fn take_cpus(&self) -> Result<()> {
        self.share.lock().resume().map_err(Error::TooMany)?;
        let taken = self.reservation.lock().resume();
        if taken.is_err() {
            self.share.lock().pause();
        }
        Ok(taken?)
    }
}

impl RunningSandbox {
    /// Disconnects when the sandbox is paused or ended: streams to clients are then closed.
    pub fn closed(&self) -> &Receiver<Infallible> {
        &self.closed
    }
}

impl Deref for RunningSandbox {
    type Target = dyn Sandbox;

    fn deref(&self) -> &Self::Target {
        &*self.vm.sandbox
    }
}
