//! The registry of sandboxes: their creation, time-outs, pause and end, and each key's budget.
//!
//! | to know | read |
//! |---|---|
//! | the states of a sandbox and who may change them | `sandboxes/life.rs` |
//! | what happens at a time-out, and when a VM ends by itself | `sandboxes/timer.rs` |
//! | limits of a key | `sandboxes/budget.rs` |
//! | lists and their pages | `sandboxes/list.rs` |
//!
//! INVARIANT: no lock is held while a VM is launched, paused, resumed or ended.

mod budget;
mod error;
mod id;
mod life;
mod list;
mod managed;
mod registry;
mod request;
mod timer;
mod vm;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use base::sync::Mutex;
use crossbeam_channel::bounded;

pub use self::budget::{Limits, TooMany};
pub use self::error::{Error, Result};
pub use self::life::{State, Status};
pub use self::list::{Filter, Order, Page};
pub use self::managed::ManagedSandbox;

pub use self::request::{Caller, CreateRequest, Lifecycle, Settings};
pub use self::vm::RunningSandbox;

use self::budget::Budgets;
use self::life::End;
use self::managed::{Identity, Times};
use self::registry::{Registry, TRANSITION};
use self::vm::Vm;
use crate::clock::Clock;
use crate::event_log::EventLog;
use crate::launcher::{LaunchRequest, Launcher, NetworkRequest, Template};

/// The time that a request adds to a sandbox that it resumes, unless the sandbox was created with more.
const RESUMED_BY_REQUEST: Duration = Duration::from_secs(300);

/// How many VMs are ended at a time when the registry stops.
const ENDERS: usize = 8;

/// All sandboxes of a process. Dropping it ends them.
pub struct Sandboxes {
    registry: Arc<Registry>,
    launcher: Arc<dyn Launcher>,
    settings: Settings,
    budgets: Budgets,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// How a sandbox came to run.
pub enum Connected {
    /// It ran.
    Running(Arc<ManagedSandbox>),
    /// It was paused.
    Resumed(Arc<ManagedSandbox>),
}

impl Sandboxes {
    /// A registry without sandboxes.
    pub fn start(
        launcher: Arc<dyn Launcher>,
        settings: Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (wake, woken) = bounded(1);
        let registry = Arc::new(Registry::new(clock, wake));
        let thread = {
            let registry = Arc::clone(&registry);
            base::thread::spawn("sandboxes", move || timer::run(&registry, &woken))
        };
        let thread =
            thread.map_err(|source| Error::Thread { name: "sandboxes".to_owned(), source })?;
        let thread = Mutex::new(Some(thread));
        Ok(Self { registry, launcher, settings, budgets: Budgets::default(), thread })
    }

    /// The templates that sandboxes are made from.
    pub fn templates(&self) -> Vec<Template> {
        self.launcher.templates()
    }

    /// Its limits.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// The time of day, by the registry's clock.
    pub fn wall(&self) -> SystemTime {
        self.registry.clock.wall()
    }

    /// Starts a sandbox. Blocks until it takes commands.
    pub fn create(&self, caller: &Caller, request: CreateRequest) -> Result<Arc<ManagedSandbox>> {
        let templates = self.launcher.templates();
        let template = templates.into_iter().find(|one| one.is_named(&request.template));
        let Some(template) = template else {
            return Err(Error::NoTemplate { name: request.template });
        };
        let timeout = request.timeout.unwrap_or(self.settings.default_timeout);
        self.check(timeout)?;
        let share = self.budgets.take(&caller.key, caller.limits, &template);
        let share = share.map_err(Error::TooMany)?;
        let id = id::sandbox()?;
        let envd_token = id::token()?;
        let traffic_token = if request.allow_public_traffic { None } else { Some(id::token()?) };
        let labels = [("sandbox", &id), ("template", &template.name)];
        let launch = LaunchRequest {
            template: template.name.clone(),
            name: format!("sandbox-{id}"),
            labels: labels.map(|(name, value)| (name.to_owned(), value.clone())).into(),
            network: request.network.clone(),
            timezone: None,
        };
        let closed = life::event()?;
        let _launch = self.registry.begin_launch()?;
        let launched = self.launcher.launch(&launch, &self.registry.cancellation)?;
        let vm = Vm::new(launched, share);
        let key = caller.key.clone();
        let identity = Identity { id, key, template, envd_token, traffic_token };
        let started_at = self.wall();
        let times = Times { started_at, timeout, end: self.registry.end_after(timeout) };
        let log = EventLog::new(Arc::clone(&self.registry.clock));
        log.record_sandbox("sandbox started");
        let sandbox = Arc::new(ManagedSandbox::new(identity, request, times, (vm, closed), log));
        if !self.registry.add(Arc::clone(&sandbox)) {
            end(&sandbox);
            return Err(Error::Stopping);
        }
        log::info!("sandbox started; sandbox={} template={}", sandbox.id(), launch.template);
        Ok(sandbox)
    }

    /// The sandbox of this id, of any key: for callers that have one of its tokens.
    pub fn find(&self, id: &str) -> Option<Arc<ManagedSandbox>> {
        self.registry.find(id)
    }

    /// All sandboxes, of all keys.
    pub fn all(&self) -> Vec<Arc<ManagedSandbox>> {
        self.registry.all()
    }

    /// The caller's sandbox of this id.
    pub fn get(&self, caller: &Caller, id: &str) -> Result<Arc<ManagedSandbox>> {
        let found = self.registry.find(id).filter(|sandbox| sandbox.key() == caller.key);
        found.ok_or_else(|| Error::NotFound { id: id.to_owned() })
    }

    /// A page of the caller's sandboxes.
    pub fn list(&self, caller: &Caller, filter: &Filter) -> Result<Page> {
        let mut sandboxes = self.registry.all();
        sandboxes.retain(|sandbox| sandbox.key() == caller.key);
        filter.page(sandboxes)
    }

    /// The sandbox for calls. One that requests resume is resumed: so the caller has checked the
    /// request's token before.
    pub fn enter(&self, sandbox: &ManagedSandbox) -> Result<RunningSandbox> {
        loop {
            if let Some(running) = sandbox.running() {
                return Ok(running);
            }
            if !sandbox.lifecycle().resumes_on_request && sandbox.status().state == State::Paused {
                return Err(Error::Paused { id: sandbox.id().to_owned() });
            }
            let timeout = sandbox.timeout().max(RESUMED_BY_REQUEST);
            self.resume(sandbox, self.registry.end_after(timeout))?;
        }
    }

    /// Resumes the caller's sandbox until `timeout` from now. One that runs gets that end if it is later
    /// than its own.
    pub fn connect(&self, caller: &Caller, id: &str, timeout: Duration) -> Result<Connected> {
        self.check(timeout)?;
        let sandbox = self.get(caller, id)?;
        loop {
            let end = self.registry.end_after(timeout);
            if self.resume(&sandbox, end)? {
                return Ok(Connected::Resumed(sandbox));
            }
            match sandbox.life().set_end(end, true) {
                Ok(()) => {
                    self.registry.wake();
                    return Ok(Connected::Running(sandbox));
                }
                // It was paused between the two calls.
                Err(Error::Paused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Ends the caller's sandbox.
    pub fn kill(&self, caller: &Caller, id: &str) -> Result<()> {
        let sandbox = self.get(caller, id)?;
        self.registry.remove(id);
        log::info!("sandbox is ended by a call; sandbox={id}");
        end(&sandbox);
        Ok(())
    }

    /// Sets the end of the caller's running sandbox to `timeout` from now. Zero ends or pauses it at once.
    pub fn set_timeout(&self, caller: &Caller, id: &str, timeout: Duration) -> Result<()> {
        self.set_end(caller, id, timeout, false)
    }

    /// As [`Sandboxes::set_timeout`], unless that would be earlier than its end.
    pub fn extend(&self, caller: &Caller, id: &str, timeout: Duration) -> Result<()> {
        self.set_end(caller, id, timeout, true)
    }

    /// Pauses the caller's sandbox: its streams are closed, its memory, files and processes stay.
    pub fn pause(&self, caller: &Caller, id: &str) -> Result<()> {
        let sandbox = self.get(caller, id)?;
        let vm = sandbox.life().begin_pause()?;
        self.registry.finish_pause(&sandbox, vm)
    }

    /// Replaces the network of the caller's running sandbox, also for open connections.
    pub fn set_network(&self, caller: &Caller, id: &str, network: NetworkRequest) -> Result<()> {
        let sandbox = self.get(caller, id)?;
        let make = |config: &_| Ok(self.launcher.network(config, &network)?);
        match sandbox.life().set_network(make, Instant::now() + TRANSITION) {
            Ok(()) => {
                sandbox.record_network(network);
                sandbox.log().record_sandbox("network replaced");
            }
            Err(error) => {
                if matches!(error, Error::Network { .. }) {
                    self.registry.remove(id);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Ends all sandboxes, and takes no more.
    pub fn stop(&self) {
        self.registry.close();
        if let Some(thread) = self.thread.lock().take() {
            base::thread::join(thread);
        }
        let rest = Mutex::new(self.registry.take_all());
        let work = || {
            while let Some(sandbox) = pop(&rest) {
                end(&sandbox);
            }
        };
        std::thread::scope(|scope| {
            for number in 1..ENDERS.min(rest.lock().len()) {
                // Without the thread this one does its part.
                let _ = base::thread::spawn_scoped(scope, format!("sandbox-end-{number}"), work);
            }
            work();
        });
    }

    fn set_end(
        &self,
        caller: &Caller,
        id: &str,
        timeout: Duration,
        only_later: bool,
    ) -> Result<()> {
        if timeout > self.settings.max_timeout {
            return Err(Error::TimeoutTooLong { limit: self.settings.max_timeout });
        }
        let sandbox = self.get(caller, id)?;
        sandbox.life().set_end(self.registry.end_after(timeout), only_later)?;
        self.registry.wake();
        Ok(())
    }

    /// Resumes a paused sandbox; `false` if it runs.
    fn resume(&self, sandbox: &ManagedSandbox, end: End) -> Result<bool> {
        let resumed = sandbox.life().resume(end, Instant::now() + TRANSITION);
        if matches!(resumed, Err(Error::Resume { .. })) {
            self.registry.remove(sandbox.id());
        }
        if matches!(resumed, Ok(true)) {
            sandbox.log().record_sandbox("sandbox resumed");
            log::info!("sandbox resumed; sandbox={}", sandbox.id());
        }
        self.registry.wake();
        resumed
    }

    fn check(&self, timeout: Duration) -> Result<()> {
        let limit = self.settings.max_timeout;
        match timeout {
            Duration::ZERO => Err(Error::NoTimeout),
            timeout if timeout > limit => Err(Error::TimeoutTooLong { limit }),
            _ => Ok(()),
        }
    }
}

impl Drop for Sandboxes {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends a sandbox with its VM.
fn end(sandbox: &ManagedSandbox) {
    if let Some(vm) = sandbox.life().end() {
        vm.end(sandbox.id());
    }
}

fn pop(rest: &Mutex<Vec<Arc<ManagedSandbox>>>) -> Option<Arc<ManagedSandbox>> {
    rest.lock().pop()
}
