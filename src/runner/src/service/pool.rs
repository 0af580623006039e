//! VMs that are ready before a job wants them.
//!
//! ```text
//!            thread `warm`        claim                    park
//!  nothing ───────────────▶ warm ───────▶ a job's ───────────────────────▶ parked
//!                                          ▲   claim, by the same session    │
//!                                          └─────────────────────────────────┤
//!  nothing ◀──── too old, too many, the host is short of memory, it ended ───┘
//! ```
//!
//! A warm VM is nobody's: what identifies a job is set when it is claimed. A parked one is of the
//! session whose job ran in it last (the platform's `reuseKey`), and goes to none but that session.
//!
//! | file | what |
//! |---|---|
//! | this one | what jobs do with it |
//! | `stock.rs` | what there is, and which goes first; no thread, no VM is needed to test it |
//! | `keeper.rs` | thread `pool`: sees VMs end and grow old, and ends those that go |
//! | `maker.rs` | thread `warm`: makes warm ones, and snapshots that were lost |
//! | `pressure.rs` | thread `pressure`: hears from the kernel when memory is short |

mod keeper;
mod maker;
mod pressure;
mod stock;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded, unbounded};
use guest_common::epoch_ms;
use sandbox::{Cancellation, Image, Sandbox, SandboxConfig, SandboxFactory, SandboxId};
use serde::{Deserialize, Serialize};

use self::keeper::Keeper;
use self::maker::Maker;
use self::pressure::Pressure;
use self::stock::{Parked, Stock};
use super::config::{Config, Profile};
use super::leash::Plug;
use crate::error::{Error, Result};

/// How long a VM may take to start: an emulated one on a loaded host is slow. And to go on.
const START: Duration = Duration::from_secs(300);
const RESUME: Duration = Duration::from_secs(60);
/// How long one may take to be parked.
const PARK: Duration = Duration::from_secs(30);

/// What a VM of a profile is, for nobody in particular.
pub(crate) type Blank = dyn Fn(&Profile) -> Result<SandboxConfig> + Send + Sync;

/// Whether a job got the VM that its session had before, as the platform is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Reuse {
    Reused,
    NoReuseKey,
    PoolMiss,
    ProfileMismatch,
    UnparkFailed,
}

/// A session that has a VM here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HeldSession {
    session_id: String,
    last_completed_at: u64,
    reusable_sandbox: Reusable,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Reusable {
    profile: String,
}

/// A VM that a job has.
pub(crate) struct Taken {
    pub(crate) sandbox: Box<dyn Sandbox>,
    /// None where VMs are not parked.
    pub(crate) reuse: Option<Reuse>,
    /// The session, once it is known.
    pub(crate) session: Option<String>,
    key: Option<String>,
    image: Image,
}

/// The pool. Dropping it ends all that is in it.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    pressure: Mutex<Option<Pressure>>,
}

struct Shared {
    factory: Arc<dyn SandboxFactory>,
    stock: Mutex<Stock>,
    requests: Sender<Request>,
    plug: Plug,
    /// Cancels the starts of warm VMs.
    cancellation: Cancellation,
    /// How many may be parked.
    most_parked: usize,
}

/// What the thread `pool` is asked for.
enum Request {
    /// Look at the stock again.
    Look,
    /// End a VM that is of no more use.
    End(Box<dyn Sandbox>),
    /// The host is short of memory.
    Pressure,
    /// End everything.
    Stop,
}

/// What came of looking for a session's VM.
struct Unparked {
    sandbox: Option<Box<dyn Sandbox>>,
    reuse: Option<Reuse>,
}

/// What a job wants.
pub(crate) struct Wish<'a> {
    pub(crate) profile: &'a str,
    /// Its session's.
    pub(crate) key: Option<&'a str>,
    /// What the VM is to be.
    pub(crate) config: &'a SandboxConfig,
    /// Cancels the VM's start.
    pub(crate) cancellation: &'a Cancellation,
    /// Hears which VM it will be, before that is touched.
    pub(crate) hold: &'a dyn Fn(SandboxId) -> Result<()>,
}

impl Pool {
    /// Starts its threads. `changed` is called when sessions have come or gone.
    pub(crate) fn start(
        config: &Config,
        factory: Arc<dyn SandboxFactory>,
        plug: Plug,
        blank: Arc<Blank>,
        changed: impl Fn() + Send + 'static,
    ) -> Result<Self> {
        let (requests, inbox) = unbounded();
        let (orders, ordered) = bounded(1);
        let stock = Mutex::new(Stock::new(&config.profiles, config.parked_for));
        let most_parked = config.parked;
        let shared = Arc::new(Shared {
            factory,
            stock,
            requests,
            plug,
            cancellation: Cancellation::new(),
            most_parked,
        });
        let maker = Maker { shared: Arc::clone(&shared), blank, profiles: config.profiles.clone() };
        let keeper = Keeper::new(Arc::clone(&shared), inbox, orders, Box::new(changed));
        let pool = Self { shared, threads: Mutex::default(), pressure: Mutex::default() };
        pool.spawn("warm", move || maker.run(&ordered))?;
        pool.spawn("pool", move || keeper.run())?;
        if most_parked > 0 {
            let requests = pool.shared.requests.clone();
            let told = move || drop(requests.send(Request::Pressure));
            *pool.pressure.lock().unwrap_or_else(PoisonError::into_inner) = Pressure::start(told);
        }
        Ok(pool)
    }

    fn spawn(&self, name: &'static str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = Builder::new().name(name.to_owned()).spawn(work);
        let thread = thread.map_err(|source| Error::Thread { name, source })?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// A VM for a job: its session's, or a warm one, or one that is started now.
    pub(crate) fn claim(&self, wish: &Wish<'_>) -> Result<Taken> {
        let Unparked { sandbox: found, reuse } = self.unpark(wish)?;
        let taken = |sandbox, reuse| Taken {
            sandbox,
            reuse,
            session: None,
            key: wish.key.filter(|_| self.shared.most_parked > 0).map(str::to_owned),
            image: wish.config.image.clone(),
        };
        if let Some(sandbox) = found {
            return Ok(taken(sandbox, reuse));
        }
        let warm = self.shared.lock().take_warm(wish.profile, &wish.config.image);
        for gone in warm.stale {
            self.shared.end(gone);
        }
        if let Some(warm) = warm.found {
            self.shared.look();
            if let Some(sandbox) = self.assign(warm, wish)? {
                log::debug!("a warm vm is claimed; vm={}", sandbox.id());
                return Ok(taken(sandbox, reuse));
            }
        }
        (wish.hold)(wish.config.id)?;
        let sandbox =
            self.shared.factory.start(wish.config, wish.cancellation, Instant::now() + START)?;
        if sandbox.start_report().stages.iter().any(|(stage, _)| *stage == "boot") {
            self.shared.lock().booted(wish.profile);
            self.shared.look();
        }
        Ok(taken(sandbox, reuse))
    }

    /// The VM that the job's session had before, if it is there and good.
    fn unpark(&self, wish: &Wish<'_>) -> Result<Unparked> {
        let none = |reuse| Ok(Unparked { sandbox: None, reuse });
        if self.shared.most_parked == 0 {
            return none(None);
        }
        let Some(key) = wish.key else { return none(Some(Reuse::NoReuseKey)) };
        let parked = self.shared.lock().take_parked(key);
        let Some(parked) = parked else { return none(Some(Reuse::PoolMiss)) };
        self.shared.look();
        if parked.profile != wish.profile || parked.image != wish.config.image {
            self.shared.end(parked.sandbox);
            return none(Some(Reuse::ProfileMismatch));
        }
        let sandbox = self.assign(parked.sandbox, wish)?;
        let reuse = if sandbox.is_some() { Reuse::Reused } else { Reuse::UnparkFailed };
        Ok(Unparked { sandbox, reuse: Some(reuse) })
    }

    /// Makes a VM the job's; none if that failed, and the VM goes.
    fn assign(
        &self,
        sandbox: Box<dyn Sandbox>,
        wish: &Wish<'_>,
    ) -> Result<Option<Box<dyn Sandbox>>> {
        if let Err(error) = (wish.hold)(sandbox.id()) {
            self.shared.end(sandbox);
            return Err(error);
        }
        match sandbox.assign(wish.config, Instant::now() + RESUME) {
            Ok(()) => Ok(Some(sandbox)),
            Err(error) => {
                let error = Error::from(error).chain();
                log::warn!("a vm that was ready is of no use; vm={} error={error}", sandbox.id());
                self.shared.end(sandbox);
                Ok(None)
            }
        }
    }

    /// Whether this VM can be kept for its session.
    pub(crate) fn wants(&self, taken: &Taken) -> bool {
        taken.key.is_some() && pressure::has_memory() && self.shared.lock().is_open()
    }

    /// Parks a VM whose job is done; an error means that it goes.
    pub(crate) fn park(&self, taken: Taken, profile: &Profile) -> Result<()> {
        let Taken { sandbox, key, image, session, .. } = taken;
        self.shared.lock().take_in_hand(sandbox.id());
        let parked = sandbox.park(Instant::now() + PARK);
        self.shared.lock().let_go(sandbox.id());
        if let Err(error) = parked {
            self.shared.end(sandbox);
            return Err(error.into());
        }
        log::debug!("a vm is parked; vm={}", sandbox.id());
        let held = session.map(|session_id| HeldSession {
            session_id,
            last_completed_at: epoch_ms(),
            reusable_sandbox: Reusable { profile: profile.name.clone() },
        });
        let parked = Parked {
            key: key.unwrap_or_default(),
            profile: profile.name.clone(),
            image,
            memory_mib: profile.amount.memory_mib,
            since: Instant::now(),
            held,
            sandbox,
        };
        let gone = self.shared.lock().put_parked(parked, self.shared.most_parked);
        gone.into_iter().for_each(|sandbox| self.shared.end(sandbox));
        self.shared.look();
        Ok(())
    }

    /// Ends parked VMs until the rest has room in so much memory, the oldest first; that of `key` is
    /// about to be claimed.
    pub(crate) fn make_room(&self, free_mib: u32, key: Option<&str>) {
        let gone = self.shared.lock().make_room(free_mib, key);
        gone.into_iter().for_each(|sandbox| self.shared.end(sandbox));
    }

    /// The sessions that have a VM here, by when they came.
    pub(crate) fn held(&self) -> Vec<HeldSession> {
        self.shared.lock().held()
    }

    /// Ends all VMs that nobody has, and makes no more.
    pub(crate) fn close(&self) {
        drop(self.pressure.lock().unwrap_or_else(PoisonError::into_inner).take());
        let in_hand = self.shared.lock().close();
        self.shared.cancellation.cancel();
        in_hand.into_iter().for_each(|vm| (self.shared.plug)(vm));
        drop(self.shared.requests.send(Request::Stop));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
        for thread in self.threads.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..) {
            if thread.join().is_err() {
                log::error!("a thread of the pool panicked: this is a bug");
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        drop(self.requests.send(Request::Look));
    }

    /// Has a VM ended by the thread `pool`; where that is gone, here.
    fn end(&self, sandbox: Box<dyn Sandbox>) {
        if let Err(unsent) = self.requests.send(Request::End(sandbox))
            && let Request::End(sandbox) = unsent.into_inner()
        {
            kill(sandbox);
        }
    }
}

fn kill(sandbox: Box<dyn Sandbox>) {
    let vm = sandbox.id();
    if let Err(error) = sandbox.kill() {
        log::error!("a vm did not end well; vm={vm} error={}", Error::from(error).chain());
    }
}

/// How many VMs the pool has at most, besides those of jobs.
pub(crate) fn size(profiles: &BTreeMap<String, Profile>, parked: usize) -> usize {
    parked + profiles.values().map(|profile| profile.warm as usize).sum::<usize>()
}
