//! The state of the pool, without I/O: removed VMs are returned, and the caller kills them without the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use sandbox::{Image, Sandbox, SandboxId};

use crate::config::Profile;
use crate::reuse::HeldSession;

/// The pause after a failed start. It doubles with each further failure, up to the maximum.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const MAX_PAUSE: Duration = Duration::from_secs(10 * 60);

/// No VM is started for this time after a warm VM was taken: a boot would slow down that VM's first commands.
const HEAD_START: Duration = Duration::from_secs(1);

/// An unassigned VM.
struct WarmVm {
    profile: String,
    image: Image,
    sandbox: Box<dyn Sandbox>,
}

/// A VM that waits for its session's next job.
pub(super) struct ParkedVm {
    pub(super) key: String,
    pub(super) profile: String,
    pub(super) image: Image,
    pub(super) memory_mib: u32,
    pub(super) since: Instant,
    pub(super) session: Option<HeldSession>,
    pub(super) sandbox: Box<dyn Sandbox>,
}

/// A warm VM, and the VMs of replaced images that were before it.
#[derive(Default)]
pub(super) struct WarmMatch {
    pub(super) found: Option<Box<dyn Sandbox>>,
    pub(super) stale: Vec<Box<dyn Sandbox>>,
}

pub(super) struct PoolState {
    is_open: bool,
    wanted: BTreeMap<String, usize>,
    warm: Vec<WarmVm>,
    /// The oldest first.
    parked: Vec<ParkedVm>,
    parked_for: Duration,
    /// Profiles of which a VM booted for lack of a snapshot.
    booted: BTreeSet<String>,
    is_replenishing: bool,
    /// VMs that are being started or parked.
    in_progress: BTreeSet<SandboxId>,
    /// No VM is started before this time.
    not_before: Option<Instant>,
    /// The pause after the next failure.
    pause: Duration,
}

impl PoolState {
    pub(super) fn new(profiles: &BTreeMap<String, Profile>, parked_for: Duration) -> Self {
        let wanted = profiles.iter().map(|(name, profile)| (name.clone(), profile.warm as usize));
        Self {
            is_open: true,
            wanted: wanted.collect(),
            warm: Vec::new(),
            parked: Vec::new(),
            parked_for,
            booted: BTreeSet::new(),
            is_replenishing: false,
            in_progress: BTreeSet::new(),
            not_before: None,
            pause: FIRST_PAUSE,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Takes the oldest warm VM of a profile that has this image.
    pub(super) fn take_warm(&mut self, profile: &str, image: &Image, now: Instant) -> WarmMatch {
        let mut found = WarmMatch::default();
        while found.found.is_none()
            && let Some(at) = self.warm.iter().position(|warm| warm.profile == profile)
        {
            let warm = self.warm.remove(at);
            if warm.image == *image {
                found.found = Some(warm.sandbox);
            } else {
                found.stale.push(warm.sandbox);
            }
        }
        if found.found.is_some() {
            self.not_before = self.not_before.max(Some(now + HEAD_START));
        }
        found
    }

    pub(super) fn take_parked(&mut self, key: &str) -> Option<ParkedVm> {
        let at = self.parked.iter().position(|parked| parked.key == key)?;
        Some(self.parked.remove(at))
    }

    /// Adds a parked VM. Removes an older VM of the same session, and the oldest beyond `max`.
    pub(super) fn put_parked(&mut self, parked: ParkedVm, max: usize) -> Vec<Box<dyn Sandbox>> {
        if !self.is_open {
            return vec![parked.sandbox];
        }
        let mut evicted: Vec<_> = self.take_parked(&parked.key).into_iter().collect();
        self.parked.push(parked);
        let excess = self.parked.len().saturating_sub(max);
        evicted.extend(self.parked.drain(..excess));
        evicted.into_iter().map(|parked| parked.sandbox).collect()
    }

    /// Removes the oldest VMs until the rest fits into `free_mib`, counted with their full memory. The VM of `key` is
    /// neither counted nor removed.
    pub(super) fn evict_for(&mut self, free_mib: u32, key: Option<&str>) -> Vec<Box<dyn Sandbox>> {
        let mut evicted = Vec::new();
        loop {
            let others = || self.parked.iter().filter(|parked| Some(parked.key.as_str()) != key);
            let used: u64 = others().map(|parked| u64::from(parked.memory_mib)).sum();
            let oldest = self.parked.iter().position(|parked| Some(parked.key.as_str()) != key);
            match oldest {
                Some(at) if used > u64::from(free_mib) => {
                    evicted.push(self.parked.remove(at).sandbox);
                }
                _ => return evicted,
            }
        }
    }

    /// Removes the VM that was parked first.
    pub(super) fn take_oldest(&mut self) -> Option<Box<dyn Sandbox>> {
        (!self.parked.is_empty()).then(|| self.parked.remove(0).sandbox)
    }

    /// Removes VMs that were parked for too long, and VMs that have ended.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Box<dyn Sandbox>> {
        let is_expired = |parked: &mut ParkedVm| {
            now.saturating_duration_since(parked.since) >= self.parked_for
                || has_ended(&*parked.sandbox)
        };
        let parked = self.parked.extract_if(.., is_expired).map(|parked| parked.sandbox);
        let mut expired: Vec<_> = parked.collect();
        let warm = self.warm.extract_if(.., |warm| has_ended(&*warm.sandbox));
        let ended: Vec<_> = warm.map(|warm| warm.sandbox).collect();
        if !ended.is_empty() {
            // A warm VM that ends by itself is replaced only after a pause.
            self.pause(now);
        }
        expired.extend(ended);
        expired
    }

    /// One channel per VM, which disconnects when the VM ends.
    pub(super) fn ends(&self) -> Vec<Receiver<()>> {
        let warm = self.warm.iter().map(|warm| warm.sandbox.ended());
        warm.chain(self.parked.iter().map(|parked| parked.sandbox.ended())).collect()
    }

    /// The time of the next expiry, or of the end of a pause.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let expiry = self.parked.first().map(|parked| parked.since + self.parked_for);
        let pause = self.not_before.filter(|_| self.is_open).filter(|at| *at > now);
        expiry.into_iter().chain(pause).min()
    }

    /// The next profile for the replenisher, which is then busy; `None` if it is busy, paused or closed.
    pub(super) fn next_profile(&mut self, now: Instant) -> Option<String> {
        let is_paused = self.not_before.is_some_and(|at| at > now);
        if self.is_replenishing || !self.is_open || is_paused {
            return None;
        }
        let booted = self.booted.pop_first();
        let missing = || self.wanted.keys().find(|name| self.is_missing(name)).cloned();
        let profile = booted.or_else(missing);
        self.is_replenishing = profile.is_some();
        profile
    }

    /// Whether a profile has fewer warm VMs than configured.
    pub(super) fn is_missing(&self, profile: &str) -> bool {
        let has = self.warm.iter().filter(|warm| warm.profile == profile).count();
        self.is_open && self.wanted.get(profile).is_some_and(|wanted| has < *wanted)
    }

    /// Records that a VM of this profile booted for lack of a snapshot.
    pub(super) fn note_boot(&mut self, profile: &str) {
        self.booted.insert(profile.to_owned());
    }

    /// Registers a VM that is about to be started or parked. Returns false if the pool is closed.
    pub(super) fn begin_work(&mut self, vm: SandboxId) -> bool {
        if self.is_open {
            self.in_progress.insert(vm);
        }
        self.is_open
    }

    /// The start or parking of a VM has ended, with or without success.
    pub(super) fn finish_work(&mut self, vm: SandboxId) {
        self.in_progress.remove(&vm);
    }

    /// Adds a warm VM. Returns it if the pool is closed.
    pub(super) fn put_warm(
        &mut self,
        profile: &str,
        image: Image,
        sandbox: Box<dyn Sandbox>,
    ) -> Option<Box<dyn Sandbox>> {
        if !self.is_open {
            return Some(sandbox);
        }
        self.warm.push(WarmVm { profile: profile.to_owned(), image, sandbox });
        None
    }

    /// The replenisher is idle again after a success.
    pub(super) fn succeeded(&mut self) {
        self.is_replenishing = false;
        self.pause = FIRST_PAUSE;
    }

    /// The replenisher is idle again after a failure. Returns false if the pool is closed.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.is_replenishing = false;
        self.pause(now);
        self.is_open
    }

    fn pause(&mut self, now: Instant) {
        self.not_before = Some(now + self.pause);
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }

    pub(super) fn sessions(&self) -> Vec<HeldSession> {
        self.parked.iter().filter_map(|parked| parked.session.clone()).collect()
    }

    /// Closes the pool. Returns the VMs that are being started or parked.
    pub(super) fn close(&mut self) -> Vec<SandboxId> {
        self.is_open = false;
        self.in_progress.iter().copied().collect()
    }

    /// Removes all VMs.
    pub(super) fn clear(&mut self) -> Vec<Box<dyn Sandbox>> {
        let warm = self.warm.drain(..).map(|warm| warm.sandbox);
        warm.chain(self.parked.drain(..).map(|parked| parked.sandbox)).collect()
    }
}

fn has_ended(sandbox: &dyn Sandbox) -> bool {
    sandbox.ended().try_recv() == Err(TryRecvError::Disconnected)
}
