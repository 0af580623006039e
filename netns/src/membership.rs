//! Membership in the pools of this host: the first pool sets the host up, and the last one cleans it up.
//!
//! Also reclaims the [`garbage`](crate::garbage) of dead pools: it is found by the addresses of networks
//! that no pool has a lock on. The table is garbage if no pool is alive.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use base::error::chain;

use crate::Result;
use crate::garbage::{self, Garbage};
use crate::host::{self, Host, describe};
use crate::lock::{Lock, Locks};
use crate::range::Range;

/// The default lock file, by which the runners of a host divide the networks.
pub const LOCK_PATH: &str = "/run/sandbox-runner/network.lock";

/// A pool's membership: while it lives, the host stays set up.
#[derive(Debug)]
pub(crate) struct Membership {
    locks: Locks,
    /// `None` only during the drop.
    user: Option<Lock>,
}

impl Membership {
    /// Removes the garbage of dead pools, and sets the host up if this is the first pool.
    pub(crate) fn join(lock_path: &Path, range: Range) -> Result<Arc<Self>> {
        let locks = Locks::open(lock_path)?;
        let mut host = Host::open()?;
        let _set_up = locks.lock_setup()?;
        host.check_lock_file(&locks)?;
        host.check_overlap(range)?;
        let candidates = candidates(&mut host)?;
        collect_unlocked(&mut host, &locks, &candidates)?;
        host.set_up(&locks)?;
        let user = Some(locks.join()?);
        Ok(Arc::new(Self { locks, user }))
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Deletes the conntrack entries of dead pools. It is slow, and nothing depends on it.
    pub(crate) fn forget_dead_connections(&self, range: Range) -> Result<()> {
        let mut host = Host::open()?;
        let remembered = remembered(&mut host, range)?;
        collect_unlocked(&mut host, &self.locks, &remembered).map(drop)
    }

    fn leave(&mut self) -> Result<()> {
        let _set_up = self.locks.lock_setup()?;
        self.user = None;
        if let Some(_alone) = self.locks.try_exclusive()? {
            Host::open()?.clear()?;
        }
        Ok(())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            log::error!("cannot clean up the host's rules for networks; error={}", chain(&error));
        }
    }
}

/// The garbage of dead runners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// The networks that have left something, in CIDR notation.
    pub networks: Vec<String>,
    /// The table exists although no pool is alive.
    pub table: bool,
}

/// Finds the garbage of dead runners.
pub fn leftovers(lock_path: &Path, range: Range) -> Result<Leftovers> {
    let mut host = Host::open()?;
    let mut found = candidates(&mut host)?;
    found.extend(remembered(&mut host, range)?);
    let table = host.has_table()?;
    // Opening the lock file would create it, and this must not change the host.
    let locks = lock_path.exists().then(|| Locks::open(lock_path)).transpose()?;
    let Some(locks) = locks else {
        let networks = found.iter().map(|of| describe(of.addresses)).collect();
        return Ok(Leftovers { networks, table });
    };
    host.check_lock_file(&locks)?;
    // A pool that starts or stops now must not count our probe as a user.
    let _set_up = locks.lock_setup()?;
    let mut dead = BTreeSet::new();
    for addresses in found.iter().map(|of| of.addresses) {
        if !locks.is_locked(addresses)? {
            dead.insert(addresses);
        }
    }
    let table = table && locks.try_exclusive()?.is_some();
    Ok(Leftovers { networks: dead.into_iter().map(describe).collect(), table })
}

/// Removes the garbage of dead runners; returns their networks.
pub fn reclaim(lock_path: &Path, range: Range) -> Result<Vec<String>> {
    let locks = Locks::open(lock_path)?;
    let mut host = Host::open()?;
    let _set_up = locks.lock_setup()?;
    host.check_lock_file(&locks)?;
    let mut found = candidates(&mut host)?;
    found.extend(remembered(&mut host, range)?);
    let removed = collect_unlocked(&mut host, &locks, &found)?;
    if let Some(_alone) = locks.try_exclusive()? {
        host.clear()?;
    }
    Ok(removed)
}

/// Collects the garbage of networks whose lock is free.
fn collect_unlocked(host: &mut Host, locks: &Locks, found: &[Garbage]) -> Result<Vec<String>> {
    let (mut held, mut dead, mut removed) = (BTreeMap::new(), Vec::new(), Vec::new());
    for of in found {
        if let Entry::Vacant(entry) = held.entry(of.addresses) {
            // A locked network is in use or being made.
            let Some(lock) = locks.try_lock(of.addresses)? else { continue };
            entry.insert(lock);
            removed.push(describe(of.addresses));
        }
        dead.push(*of);
    }
    if !dead.is_empty() {
        garbage::collect(host, &dead)?;
    }
    for net in &removed {
        log::info!("removed the garbage of a dead runner; network={net}");
    }
    Ok(removed)
}

/// Links and set elements of all runners, dead or alive.
fn candidates(host: &mut Host) -> Result<Vec<Garbage>> {
    let links = host::links(host)?;
    let ours = links.iter().filter(|(_, link)| host::is_ours(link));
    let garbage = |addresses| Garbage { addresses, link: None, has_host_elements: false };
    let mut found: Vec<_> = ours
        .map(|(addresses, link)| Garbage { link: Some(link.index), ..garbage(*addresses) })
        .collect();
    if host.has_table()? {
        let networks_with_elements = host.networks_with_elements()?;
        let networks_with_elements = networks_with_elements.into_iter();
        found.extend(
            networks_with_elements
                .map(|addresses| Garbage { has_host_elements: true, ..garbage(addresses) }),
        );
    }
    Ok(found)
}

/// The networks of a range that have conntrack entries.
fn remembered(host: &mut Host, range: Range) -> Result<Vec<Garbage>> {
    let remembered = host.remembered()?.into_iter();
    let in_range = remembered.filter(|addresses| range.net().contains(&addresses.host()));
    let garbage = |addresses| Garbage { addresses, link: None, has_host_elements: false };
    Ok(in_range.map(garbage).collect())
}
