//! What the pool has. Whatever leaves it is returned, for somebody to end without the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};
use sandbox::{Image, Sandbox, SandboxId};

use super::HeldSession;
use crate::service::config::Profile;

/// How long nothing is made after a failure; twice as long after each that follows, up to the second.
const AFTER_FAILURE: Duration = Duration::from_secs(10);
const AFTER_FAILURES: Duration = Duration::from_secs(10 * 60);

/// A VM that is nobody's.
struct Warm {
    profile: String,
    image: Image,
    sandbox: Box<dyn Sandbox>,
}

/// A VM that waits for its session.
pub(super) struct Parked {
    pub(super) key: String,
    pub(super) profile: String,
    pub(super) image: Image,
    pub(super) memory_mib: u32,
    pub(super) since: Instant,
    pub(super) held: Option<HeldSession>,
    pub(super) sandbox: Box<dyn Sandbox>,
}

/// A warm VM, and others that are of an image that is no more.
#[derive(Default)]
pub(super) struct Found {
    pub(super) found: Option<Box<dyn Sandbox>>,
    pub(super) stale: Vec<Box<dyn Sandbox>>,
}

pub(super) struct Stock {
    is_open: bool,
    wanted: BTreeMap<String, usize>,
    warm: Vec<Warm>,
    /// The oldest first.
    parked: Vec<Parked>,
    parked_for: Duration,
    /// Profiles of which a VM had to boot.
    booted: BTreeSet<String>,
    is_making: bool,
    /// VMs that are just being made or parked.
    in_hand: BTreeSet<SandboxId>,
    /// Nothing is made before.
    not_before: Option<Instant>,
    /// How long it is after the next failure.
    pause: Duration,
}

impl Stock {
    pub(super) fn new(profiles: &BTreeMap<String, Profile>, parked_for: Duration) -> Self {
        let wanted = profiles.iter().map(|(name, profile)| (name.clone(), profile.warm as usize));
        Self {
            is_open: true,
            wanted: wanted.collect(),
            warm: Vec::new(),
            parked: Vec::new(),
            parked_for,
            booted: BTreeSet::new(),
            is_making: false,
            in_hand: BTreeSet::new(),
            not_before: None,
            pause: AFTER_FAILURE,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_open
    }

    /// The warm VM of a profile that has waited longest.
    pub(super) fn take_warm(&mut self, profile: &str, image: &Image) -> Found {
        let mut found = Found::default();
        while found.found.is_none()
            && let Some(at) = self.warm.iter().position(|warm| warm.profile == profile)
        {
            let warm = self.warm.remove(at);
            match warm.image == *image {
                true => found.found = Some(warm.sandbox),
                false => found.stale.push(warm.sandbox),
            }
        }
        found
    }

    pub(super) fn take_parked(&mut self, key: &str) -> Option<Parked> {
        let at = self.parked.iter().position(|parked| parked.key == key)?;
        Some(self.parked.remove(at))
    }

    /// Takes one in, at the cost of its session's former one, and of the oldest.
    pub(super) fn put_parked(&mut self, parked: Parked, most: usize) -> Vec<Box<dyn Sandbox>> {
        if !self.is_open {
            return vec![parked.sandbox];
        }
        let mut gone: Vec<_> = self.take_parked(&parked.key).into_iter().collect();
        self.parked.push(parked);
        let over = self.parked.len().saturating_sub(most);
        gone.extend(self.parked.drain(..over));
        gone.into_iter().map(|parked| parked.sandbox).collect()
    }

    /// Takes the oldest out until the others have room in so much memory, whatever they have given
    /// back; that of `key` is not counted.
    pub(super) fn make_room(&mut self, free_mib: u32, key: Option<&str>) -> Vec<Box<dyn Sandbox>> {
        let mut gone = Vec::new();
        loop {
            let others = || self.parked.iter().filter(|parked| Some(parked.key.as_str()) != key);
            let taken: u64 = others().map(|parked| u64::from(parked.memory_mib)).sum();
            let oldest = self.parked.iter().position(|parked| Some(parked.key.as_str()) != key);
            match oldest {
                Some(at) if taken > u64::from(free_mib) => {
                    gone.push(self.parked.remove(at).sandbox);
                }
                _ => return gone,
            }
        }
    }

    /// The one that has been parked longest.
    pub(super) fn take_oldest(&mut self) -> Option<Box<dyn Sandbox>> {
        (!self.parked.is_empty()).then(|| self.parked.remove(0).sandbox)
    }

    /// Those that have been parked for too long, and those that have ended.
    pub(super) fn take_useless(&mut self, now: Instant) -> Vec<Box<dyn Sandbox>> {
        let is_old = |parked: &mut Parked| {
            now.saturating_duration_since(parked.since) >= self.parked_for
                || has_ended(&*parked.sandbox)
        };
        let parked = self.parked.extract_if(.., is_old).map(|parked| parked.sandbox);
        let mut gone: Vec<_> = parked.collect();
        let warm = self.warm.extract_if(.., |warm| has_ended(&*warm.sandbox));
        let ended: Vec<_> = warm.map(|warm| warm.sandbox).collect();
        if !ended.is_empty() {
            // What ends by itself is not made again and again without a pause.
            self.pause(now);
        }
        gone.extend(ended);
        gone
    }

    /// What to wait for: an end, for each VM.
    pub(super) fn ends(&self) -> Vec<Receiver<()>> {
        let warm = self.warm.iter().map(|warm| warm.sandbox.ended());
        warm.chain(self.parked.iter().map(|parked| parked.sandbox.ended())).collect()
    }

    /// When there is something to do even if nothing happens.
    pub(super) fn next_alarm(&self, now: Instant) -> Option<Instant> {
        let age = self.parked.first().map(|parked| parked.since + self.parked_for);
        let pause = self.not_before.filter(|_| self.is_open).filter(|at| *at > now);
        age.into_iter().chain(pause).min()
    }

    /// The profile that the maker should see to next, if it may; it is busy then.
    pub(super) fn order(&mut self, now: Instant) -> Option<String> {
        let is_paused = self.not_before.is_some_and(|at| at > now);
        if self.is_making || !self.is_open || is_paused {
            return None;
        }
        let booted = self.booted.pop_first();
        let missing = || self.wanted.keys().find(|name| self.is_missing(name)).cloned();
        let order = booted.or_else(missing);
        self.is_making = order.is_some();
        order
    }

    /// Whether there are fewer warm VMs of a profile than there should be.
    pub(super) fn is_missing(&self, profile: &str) -> bool {
        let has = self.warm.iter().filter(|warm| warm.profile == profile).count();
        self.is_open && self.wanted.get(profile).is_some_and(|wanted| has < *wanted)
    }

    /// A VM of this profile had to boot.
    pub(super) fn booted(&mut self, profile: &str) {
        self.booted.insert(profile.to_owned());
    }

    /// Somebody begins to make or park a VM; `false` if he is not to.
    pub(super) fn take_in_hand(&mut self, vm: SandboxId) -> bool {
        if self.is_open {
            self.in_hand.insert(vm);
        }
        self.is_open
    }

    /// He is done with it, one way or another.
    pub(super) fn let_go(&mut self, vm: SandboxId) {
        self.in_hand.remove(&vm);
    }

    /// Takes in a warm one; returns it if it is not wanted any more.
    pub(super) fn put_warm(
        &mut self,
        profile: &str,
        image: Image,
        sandbox: Box<dyn Sandbox>,
    ) -> Option<Box<dyn Sandbox>> {
        if !self.is_open {
            return Some(sandbox);
        }
        self.warm.push(Warm { profile: profile.to_owned(), image, sandbox });
        None
    }

    /// The maker is idle again, having done what it was to do.
    pub(super) fn succeeded(&mut self) {
        self.is_making = false;
        self.pause = AFTER_FAILURE;
    }

    /// The maker is idle again, having failed; says whether that is still wanted.
    pub(super) fn failed(&mut self, now: Instant) -> bool {
        self.is_making = false;
        self.pause(now);
        self.is_open
    }

    fn pause(&mut self, now: Instant) {
        self.not_before = Some(now + self.pause);
        self.pause = (self.pause * 2).min(AFTER_FAILURES);
    }

    pub(super) fn held(&self) -> Vec<HeldSession> {
        self.parked.iter().filter_map(|parked| parked.held.clone()).collect()
    }

    /// Takes nothing in any more; returns the VMs that are in hand.
    pub(super) fn close(&mut self) -> Vec<SandboxId> {
        self.is_open = false;
        self.in_hand.iter().copied().collect()
    }

    /// Everything.
    pub(super) fn clear(&mut self) -> Vec<Box<dyn Sandbox>> {
        let warm = self.warm.drain(..).map(|warm| warm.sandbox);
        warm.chain(self.parked.drain(..).map(|parked| parked.sandbox)).collect()
    }
}

fn has_ended(sandbox: &dyn Sandbox) -> bool {
    sandbox.ended().try_recv() == Err(TryRecvError::Disconnected)
}
