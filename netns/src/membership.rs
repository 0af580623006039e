//! Being one of the pools of this host: the first one sets the host up, the last one clears it.
//!
//! Also what is done about dead ones. Whatever they left on the host ([`remains`](crate::remains)) is
//! found by the addresses of their networks, and nobody has the lock on those any more; and the
//! table is left if no pool lives.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use crate::Result;
use crate::error::chain;
use crate::host::{self, Host, describe};
use crate::lock::{Lock, Locks};
use crate::range::Range;
use crate::remains::{self, Remains};

/// Where the runners of a host agree on who has which network.
pub const LOCK_PATH: &str = "/run/sandbox-runner/network.lock";

/// Keeps the host set up.
#[derive(Debug)]
pub(crate) struct Membership {
    locks: Locks,
    /// None only while it leaves.
    user: Option<Lock>,
}

impl Membership {
    /// Removes what dead pools left, and sets the host up if nobody has.
    pub(crate) fn join(lock_path: &Path, range: Range) -> Result<Arc<Self>> {
        let locks = Locks::open(lock_path)?;
        let mut host = Host::open()?;
        let _set_up = locks.set_up()?;
        host.refuse_foreign(&locks)?;
        host.refuse_overlap(range)?;
        let suspects = suspects(&mut host)?;
        sweep(&mut host, &locks, &suspects)?;
        host.set_up(&locks)?;
        let user = Some(locks.join()?);
        Ok(Arc::new(Self { locks, user }))
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
    }

    /// Forgets the connections of dead pools. That takes a while, and nobody needs to wait for it.
    pub(crate) fn forget_dead(&self, range: Range) -> Result<()> {
        let mut host = Host::open()?;
        let remembered = remembered(&mut host, range)?;
        sweep(&mut host, &self.locks, &remembered).map(drop)
    }

    fn leave(&mut self) -> Result<()> {
        let _set_up = self.locks.set_up()?;
        self.user = None;
        if let Some(_alone) = self.locks.be_alone()? {
            Host::open()?.clear()?;
        }
        Ok(())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Err(error) = self.leave() {
            log::error!("the host's rules for networks stay; error={}", chain(&error));
        }
    }
}

/// What dead runners left, by its networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Networks of which something is left.
    pub networks: Vec<String>,
    /// Whether the table is there though nobody needs it.
    pub table: bool,
}

/// Looks for what dead runners left of networks.
pub fn leftovers(lock_path: &Path, range: Range) -> Result<Leftovers> {
    let mut host = Host::open()?;
    let mut found = suspects(&mut host)?;
    found.extend(remembered(&mut host, range)?);
    let table = host.has_table()?;
    // A host that was only looked at is as before.
    let locks = lock_path.exists().then(|| Locks::open(lock_path)).transpose()?;
    let Some(locks) = locks else {
        let networks = found.iter().map(|of| describe(of.addresses)).collect();
        return Ok(Leftovers { networks, table });
    };
    host.refuse_foreign(&locks)?;
    // Who comes or goes meanwhile must not take us for a user.
    let _set_up = locks.set_up()?;
    let mut dead = BTreeSet::new();
    for addresses in found.iter().map(|of| of.addresses) {
        if !locks.is_taken(addresses)? {
            dead.insert(addresses);
        }
    }
    let table = table && locks.be_alone()?.is_some();
    Ok(Leftovers { networks: dead.into_iter().map(describe).collect(), table })
}

/// Removes what dead runners left of networks; returns which.
pub fn reclaim(lock_path: &Path, range: Range) -> Result<Vec<String>> {
    let locks = Locks::open(lock_path)?;
    let mut host = Host::open()?;
    let _set_up = locks.set_up()?;
    host.refuse_foreign(&locks)?;
    let mut found = suspects(&mut host)?;
    found.extend(remembered(&mut host, range)?);
    let removed = sweep(&mut host, &locks, &found)?;
    if let Some(_alone) = locks.be_alone()? {
        host.clear()?;
    }
    Ok(removed)
}

/// Removes those of `found` that nobody has.
fn sweep(host: &mut Host, locks: &Locks, found: &[Remains]) -> Result<Vec<String>> {
    let (mut held, mut dead, mut removed) = (BTreeMap::new(), Vec::new(), Vec::new());
    for of in found {
        if let Entry::Vacant(entry) = held.entry(of.addresses) {
            // Whoever has it, or is just making it, has the lock.
            let Some(lock) = locks.take(of.addresses)? else { continue };
            entry.insert(lock);
            removed.push(describe(of.addresses));
        }
        dead.push(*of);
    }
    if !dead.is_empty() {
        remains::remove(host, &dead)?;
    }
    for net in &removed {
        log::info!("removed what a dead runner left; network={net}");
    }
    Ok(removed)
}

/// What there is of networks on the host, of whichever runner, but for connections.
fn suspects(host: &mut Host) -> Result<Vec<Remains>> {
    let links = host::links(host)?;
    let ours = links.iter().filter(|(_, link)| host::is_ours(link));
    let remains = |addresses| Remains { addresses, link: None, is_redirected: false };
    let mut found: Vec<_> = ours
        .map(|(addresses, link)| Remains { link: Some(link.index), ..remains(*addresses) })
        .collect();
    if host.has_table()? {
        let redirected = host.redirected()?;
        let redirected = redirected.into_iter();
        found.extend(
            redirected.map(|addresses| Remains { is_redirected: true, ..remains(addresses) }),
        );
    }
    Ok(found)
}

/// The networks of a range whose connections the kernel remembers.
fn remembered(host: &mut Host, range: Range) -> Result<Vec<Remains>> {
    let remembered = host.remembered()?.into_iter();
    let in_range = remembered.filter(|addresses| range.net().contains(&addresses.host()));
    let remains = |addresses| Remains { addresses, link: None, is_redirected: false };
    Ok(in_range.map(remains).collect())
}
