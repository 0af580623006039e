//! What a host has and lacks for networks, looked at without changing it.

use std::path::Path;

use crate::error::chain;
use crate::host::{self, Host};
use crate::membership::leftovers;
use crate::namespace::Namespace;
use crate::nft::Transaction;
use crate::ruleset;
use crate::slot::Plan;
use crate::{Error, Range, Result, guest, tap};

/// Something that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// Networks can be made.
    Works,
    /// Networks cannot be made.
    Fails {
        /// Why.
        reason: String,
    },
    /// The range cannot be used.
    RangeTaken {
        /// Why.
        reason: String,
    },
    /// The host will be made to pass packets on when the first VM needs it.
    NotForwarding,
    /// Others' rules on the host forget what VMs send, whatever ours say.
    Closed {
        /// Their chains.
        chains: Vec<String>,
    },
    /// Dead runners have left something.
    Leftovers {
        /// The networks.
        networks: Vec<String>,
    },
}

/// Looks at this host. A trial network is made in a namespace of its own, and is gone afterwards.
pub fn check(lock_path: &Path, range: Range) -> Vec<Check> {
    let mut checks = Vec::new();
    match try_out() {
        Ok(()) => checks.push(Check::Works),
        Err(error) => checks.push(Check::Fails { reason: chain(&error) }),
    }
    match Host::open().and_then(|mut host| host.refuse_overlap(range)) {
        Err(error @ Error::RangeOverlaps { .. }) => {
            checks.push(Check::RangeTaken { reason: chain(&error) });
        }
        Ok(()) if !host::is_forwarding() => checks.push(Check::NotForwarding),
        _ => {}
    }
    match Host::open().and_then(|mut host| host.closed_forwarders()) {
        Ok(chains) if !chains.is_empty() => checks.push(Check::Closed { chains }),
        Ok(_) => {}
        Err(error) => log::debug!("{}", chain(&error)),
    }
    match leftovers(lock_path, range) {
        Ok(found) if !found.networks.is_empty() || found.table => {
            let mut networks = found.networks;
            networks.extend(found.table.then(|| "the table sandbox_runner".to_owned()));
            checks.push(Check::Leftovers { networks });
        }
        Ok(_) => {}
        Err(error) => log::debug!("{}", chain(&error)),
    }
    checks
}

/// Does something on a host that is nobody's: a namespace that is gone afterwards, with all that was
/// started in it.
pub fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    Namespace::make(|| Ok(work())).map(|(_, done)| done)
}

/// All that a network takes, but for the link to the host.
fn try_out() -> Result<()> {
    Namespace::make(|| {
        tap::make(guest::TAP)?;
        host::try_out()?;
        let Plan { policy, limits } = Plan::default();
        let rules: Transaction = ruleset::make(guest::ADDRESS, &policy, &limits, 1);
        host::commit_rules(&rules)
    })
    .map(drop)
}
