//! Being one of the pools of this host: the first one sets the host up, the last one clears it.
//!
//! Also what is done about dead ones. Whatever they left on the host is found by the addresses of
//! their networks, and nobody has the lock on those any more:
//!
//! - links, with which go what is behind them: namespaces that a process of theirs keeps open
//! - connections that the kernel remembers
//! - elements of the host's sets
//! - the table, if no pool lives

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use crate::error::chain;
use crate::host::{self, Host};
use crate::lock::{Lock, Locks};
use crate::range::{Addresses, Range};
use crate::slot::remove_link;
use crate::{Result, host::describe};

/// Where the runners of a host agree on who has which network.
pub const LOCK_PATH: &str = "/run/sandbox-runner/network.lock";

/// Keeps the host set up.
#[derive(Debug)]
pub(crate) struct Membership {
    locks: Locks,
    user: Option<Lock>,
}

impl Membership {
    /// Removes what dead pools left, and sets the host up if nobody has.
    pub(crate) fn join(lock_path: &Path, range: Range) -> Result<Arc<Self>> {
        let locks = Locks::open(lock_path)?;
        let mut host = Host::open()?;
        let _set_up = locks.set_up()?;
        host.refuse_overlap(range)?;
        for net in sweep(&mut host, &locks, range)? {
            log::info!("removed what a dead runner left; network={net}");
        }
        host.set_up(range)?;
        let user = locks.join()?;
        Ok(Arc::new(Self { locks, user }))
    }

    pub(crate) fn locks(&self) -> &Locks {
        &self.locks
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
    if !lock_path.exists() {
        return Ok(Leftovers { table: host.has_table()?, ..Leftovers::default() });
    }
    let locks = Locks::open(lock_path)?;
    let mut dead = suspects(&mut host, range)?;
    let mut failed = Ok(());
    dead.retain(|addresses| match locks.is_taken(*addresses) {
        Ok(is_taken) => !is_taken,
        Err(error) => {
            failed = Err(error);
            false
        }
    });
    failed?;
    let is_alone = locks.be_alone()?.is_some();
    let table = is_alone && host.has_table()?;
    Ok(Leftovers { networks: dead.into_iter().map(describe).collect(), table })
}

/// Removes what dead runners left of networks; returns which.
pub fn reclaim(lock_path: &Path, range: Range) -> Result<Vec<String>> {
    let locks = Locks::open(lock_path)?;
    let mut host = Host::open()?;
    let _set_up = locks.set_up()?;
    let removed = sweep(&mut host, &locks, range)?;
    for net in &removed {
        log::info!("removed what a dead runner left; network={net}");
    }
    Ok(removed)
}

fn sweep(host: &mut Host, locks: &Locks, range: Range) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let links = host::links(host)?;
    for addresses in suspects(host, range)? {
        // Whoever is just making it has the lock, and is left alone.
        let Some(_lock) = locks.take(addresses)? else { continue };
        let link = links.iter().find(|(of, link)| *of == addresses && host::is_ours(link));
        match link {
            Some((_, link)) => remove_link(host, addresses, link.index),
            None => host.forget(addresses.namespace())?,
        }
        if host.has_table()? {
            host.restore(addresses.namespace())?;
        }
        removed.push(describe(addresses));
    }
    if let Some(_alone) = locks.be_alone()? {
        host.clear()?;
    }
    Ok(removed)
}

/// The networks of which there is something on the host, of whichever runner.
fn suspects(host: &mut Host, range: Range) -> Result<BTreeSet<Addresses>> {
    let links = host::links(host)?;
    let ours = links.iter().filter(|(_, link)| host::is_ours(link));
    let mut suspects: BTreeSet<_> = ours.map(|(addresses, _)| *addresses).collect();
    suspects.extend(host.remembered(range)?);
    if host.has_table()? {
        suspects.extend(host.redirected()?);
    }
    Ok(suspects)
}
