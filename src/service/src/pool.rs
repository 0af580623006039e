//! The VM pool: warm VMs for any job of a profile, and parked VMs for their session's next job.
//!
//! ```text
//!            thread `warm`        claim                        park
//!  none ──────────────────▶ warm ───────▶ assigned ──────────────────────▶ parked
//!                                          ▲   claim by the same session     │
//!                                          └─────────────────────────────────┤
//!  none ◀──── expired, too many, memory pressure, the VM ended ──────────────┘
//! ```
//!
//! A warm VM is unassigned: it gets the identity of a job when it is claimed. A parked VM belongs to the session
//! whose job ran in it last (the platform's `reuseKey`), and only that session may claim it.
//!
//! | file | content |
//! |---|---|
//! | this file | claiming and parking by jobs |
//! | `state.rs` | the VMs and the order of eviction; testable without threads and VMs |
//! | `reaper.rs` | thread `pool`: kills expired, evicted and ended VMs |
//! | `replenisher.rs` | thread `warm`: starts warm VMs, and makes missing snapshots |
//! | `pressure.rs` | thread `pressure`: waits for the kernel's memory pressure events |

mod pressure;
mod reaper;
mod replenisher;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::date::epoch_ms;
use base::sync::{Mutex, MutexGuard};
use contract::SandboxReuse;
use crossbeam_channel::{Sender, bounded, unbounded};
use sandbox::{Cancellation, Image, Sandbox, SandboxConfig, SandboxFactory, SandboxId};

use self::pressure::Pressure;
use self::reaper::Reaper;
use self::replenisher::Replenisher;
use self::state::{ParkedVm, PoolState};
use super::cancellation::KillVm;
use super::config::{Config, Profile};
use super::reuse::{HeldSession, ReusableSandbox};
use crate::error::{Error, Result};

/// The time limits for starting a VM, which is slow on a loaded host without KVM, for resuming one, and for parking
/// one.
const START_TIMEOUT: Duration = Duration::from_secs(300);
const RESUME_TIMEOUT: Duration = Duration::from_secs(60);
const PARK_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the configuration of an unassigned VM of a profile.
pub(crate) type BaseConfig = dyn Fn(&Profile) -> Result<SandboxConfig> + Send + Sync;

/// A VM that a job has claimed.
pub(crate) struct PooledVm {
    pub(crate) sandbox: Box<dyn Sandbox>,
    /// `None` if parking is disabled.
    pub(crate) reuse: Option<SandboxReuse>,
    /// The session ID that the agent reported.
    pub(crate) session: Option<String>,
    key: Option<String>,
    image: Image,
}

/// The pool. Dropping it kills its VMs.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pressure: Mutex<Option<Pressure>>,
}

struct Shared {
    factory: Arc<dyn SandboxFactory>,
    state: Mutex<PoolState>,
    commands: Sender<ReaperCommand>,
    kill_vm: KillVm,
    /// Cancels the starts of warm VMs.
    cancellation: Cancellation,
    /// The most VMs that may be parked.
    max_parked: usize,
}

/// The input of the thread `pool`.
enum ReaperCommand {
    /// The state changed.
    Wake,
    /// Kill a VM.
    Kill(Box<dyn Sandbox>),
    /// The host is short of memory: evict a parked VM.
    EvictOldest,
    /// Kill all VMs and end.
    Stop,
}

/// The result of the search for a session's parked VM.
struct UnparkResult {
    sandbox: Option<Box<dyn Sandbox>>,
    reuse: Option<SandboxReuse>,
}

/// A job's request for a VM.
pub(crate) struct PoolRequest<'a> {
    pub(crate) profile: &'a str,
    /// The `reuseKey` of its session.
    pub(crate) key: Option<&'a str>,
    /// The VM's configuration.
    pub(crate) config: &'a SandboxConfig,
    /// Cancels the VM's start.
    pub(crate) cancellation: &'a Cancellation,
    /// Called with the VM's ID before the VM is started or assigned. An error aborts the request.
    pub(crate) set_vm: &'a dyn Fn(SandboxId) -> Result<()>,
}

impl Pool {
    /// Starts the pool's threads. They call `changed` when the set of sessions with a parked VM changes.
    pub(crate) fn start(
        config: &Config,
        factory: Arc<dyn SandboxFactory>,
        kill_vm: KillVm,
        base_config: Arc<BaseConfig>,
        changed: impl Fn() + Send + 'static,
    ) -> Result<Self> {
        let (commands, commands_rx) = unbounded();
        let (profiles_tx, profiles_rx) = bounded(1);
        let state = Mutex::new(PoolState::new(&config.profiles, config.parked_for));
        let max_parked = config.parked;
        let shared = Arc::new(Shared {
            factory,
            state,
            commands,
            kill_vm,
            cancellation: Cancellation::new(),
            max_parked,
        });
        let replenisher = Replenisher {
            shared: Arc::clone(&shared),
            base_config,
            profiles: config.profiles.clone(),
        };
        let reaper = Reaper::new(Arc::clone(&shared), commands_rx, profiles_tx, Box::new(changed));
        let pool = Self { shared, threads: Mutex::default(), pressure: Mutex::default() };
        let warm = base::thread::spawn("warm", move || replenisher.run(&profiles_rx));
        pool.add_thread("warm", warm)?;
        pool.add_thread("pool", base::thread::spawn("pool", move || reaper.run()))?;
        if max_parked > 0 {
            let commands = pool.shared.commands.clone();
            let on_pressure = move || drop(commands.send(ReaperCommand::EvictOldest));
            *pool.pressure.lock() = Pressure::start(on_pressure);
        }
        Ok(pool)
    }

    fn add_thread(&self, name: &'static str, spawned: io::Result<JoinHandle<()>>) -> Result<()> {
        self.threads.lock().push(spawned.map_err(|source| Error::Thread { name, source })?);
        Ok(())
    }

    /// A VM for a job: its session's parked VM, else a warm VM, else a new one.
    pub(crate) fn claim(&self, request: &PoolRequest<'_>) -> Result<PooledVm> {
        let UnparkResult { sandbox: unparked, reuse } = self.unpark(request)?;
        let pooled = |sandbox, reuse| PooledVm {
            sandbox,
            reuse,
            session: None,
            key: request.key.filter(|_| self.shared.max_parked > 0).map(str::to_owned),
            image: request.config.image.clone(),
        };
        if let Some(sandbox) = unparked {
            return Ok(pooled(sandbox, reuse));
        }
        let image = &request.config.image;
        let warm = self.shared.lock().take_warm(request.profile, image, Instant::now());
        for stale in warm.stale {
            self.shared.kill(stale);
        }
        if let Some(warm) = warm.found {
            let assigned = self.assign(warm, request);
            self.shared.wake_reaper();
            if let Some(sandbox) = assigned? {
                log::debug!("a warm vm is claimed; vm={}", sandbox.id());
                return Ok(pooled(sandbox, reuse));
            }
        }
        (request.set_vm)(request.config.id)?;
        let sandbox = self.shared.factory.start(
            request.config,
            request.cancellation,
            Instant::now() + START_TIMEOUT,
        )?;
        if sandbox.start_report().stages.iter().any(|(stage, _)| *stage == "boot") {
            self.shared.lock().note_boot(request.profile);
            self.shared.wake_reaper();
        }
        Ok(pooled(sandbox, reuse))
    }

    /// Claims the parked VM of the job's session, if it is usable.
    fn unpark(&self, request: &PoolRequest<'_>) -> Result<UnparkResult> {
        let none = |reuse| Ok(UnparkResult { sandbox: None, reuse });
        if self.shared.max_parked == 0 {
            return none(None);
        }
        let Some(key) = request.key else { return none(Some(SandboxReuse::NoReuseKey)) };
        let parked = self.shared.lock().take_parked(key);
        let Some(parked) = parked else { return none(Some(SandboxReuse::PoolMiss)) };
        self.shared.wake_reaper();
        if parked.profile != request.profile || parked.image != request.config.image {
            self.shared.kill(parked.sandbox);
            return none(Some(SandboxReuse::ProfileMismatch));
        }
        let sandbox = self.assign(parked.sandbox, request)?;
        let reuse =
            if sandbox.is_some() { SandboxReuse::Reused } else { SandboxReuse::UnparkFailed };
        Ok(UnparkResult { sandbox, reuse: Some(reuse) })
    }

    /// Assigns a VM to the job. If that fails, the VM is killed and the result is `None`.
    fn assign(
        &self,
        sandbox: Box<dyn Sandbox>,
        request: &PoolRequest<'_>,
    ) -> Result<Option<Box<dyn Sandbox>>> {
        if let Err(error) = (request.set_vm)(sandbox.id()) {
            self.shared.kill(sandbox);
            return Err(error);
        }
        match sandbox.assign(request.config, Instant::now() + RESUME_TIMEOUT) {
            Ok(()) => Ok(Some(sandbox)),
            Err(error) => {
                let error = Error::from(error).chain();
                log::warn!(
                    "cannot assign a pooled vm, and it is killed; vm={} error={error}",
                    sandbox.id()
                );
                self.shared.kill(sandbox);
                Ok(None)
            }
        }
    }

    /// Whether the VM may be parked for its session.
    pub(crate) fn can_park(&self, pooled: &PooledVm) -> bool {
        pooled.key.is_some() && pressure::has_memory() && self.shared.lock().is_open()
    }

    /// Parks a VM after its job. After an error it is killed.
    pub(crate) fn park(&self, pooled: PooledVm, profile: &Profile) -> Result<()> {
        let PooledVm { sandbox, key, image, session, .. } = pooled;
        self.shared.lock().begin_work(sandbox.id());
        let parked = sandbox.park(Instant::now() + PARK_TIMEOUT);
        self.shared.lock().finish_work(sandbox.id());
        if let Err(error) = parked {
            self.shared.kill(sandbox);
            return Err(error.into());
        }
        log::debug!("a vm is parked; vm={}", sandbox.id());
        let session = session.map(|session_id| HeldSession {
            session_id,
            last_completed_at: epoch_ms(),
            reusable_sandbox: ReusableSandbox { profile: profile.name.clone() },
        });
        let parked = ParkedVm {
            key: key.unwrap_or_default(),
            profile: profile.name.clone(),
            image,
            memory_mib: profile.resources.memory_mib,
            since: Instant::now(),
            session,
            sandbox,
        };
        let evicted = self.shared.lock().put_parked(parked, self.shared.max_parked);
        evicted.into_iter().for_each(|sandbox| self.shared.kill(sandbox));
        self.shared.wake_reaper();
        Ok(())
    }

    /// Evicts parked VMs, oldest first, until the rest fits into `free_mib` of memory. Keeps the VM of `key`, which is
    /// about to be claimed.
    pub(crate) fn evict_for(&self, free_mib: u32, key: Option<&str>) {
        let evicted = self.shared.lock().evict_for(free_mib, key);
        evicted.into_iter().for_each(|sandbox| self.shared.kill(sandbox));
    }

    /// The sessions with a parked VM, oldest first.
    pub(crate) fn sessions(&self) -> Vec<HeldSession> {
        self.shared.lock().sessions()
    }

    /// Whether it still starts VMs.
    pub(crate) fn is_open(&self) -> bool {
        self.shared.lock().is_open()
    }

    /// Kills all VMs without a job, and starts no more.
    pub(crate) fn close(&self) {
        drop(self.pressure.lock().take());
        let in_progress = self.shared.lock().close();
        self.shared.cancellation.cancel();
        in_progress.into_iter().for_each(|vm| (self.shared.kill_vm)(vm));
        drop(self.shared.commands.send(ReaperCommand::Stop));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.get_mut().drain(..) {
            base::thread::join(thread);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock()
    }

    fn wake_reaper(&self) {
        drop(self.commands.send(ReaperCommand::Wake));
    }

    /// Has the thread `pool` kill a VM, or kills it here if that thread has ended.
    fn kill(&self, sandbox: Box<dyn Sandbox>) {
        if let Err(unsent) = self.commands.send(ReaperCommand::Kill(sandbox))
            && let ReaperCommand::Kill(sandbox) = unsent.into_inner()
        {
            kill(sandbox);
        }
    }
}

fn kill(sandbox: Box<dyn Sandbox>) {
    let vm = sandbox.id();
    if let Err(error) = sandbox.kill() {
        log::error!("cannot kill a vm; vm={vm} error={}", Error::from(error).chain());
    }
}
