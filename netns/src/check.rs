//! Checks whether a host can have networks, without changing it.

use std::path::Path;

use base::error::chain;

use crate::host::{self, Host};
use crate::membership::leftovers;
use crate::namespace::Namespace;
use crate::nft::Transaction;
use crate::ruleset;
use crate::slot::TrafficConfig;
use crate::{Error, Range, Result, guest, tap};

/// A finding.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Check {
    /// Networks can be made.
    Works,
    /// Networks cannot be made.
    Fails { reason: String },
    /// The range cannot be used.
    RangeTaken { reason: String },
    /// IP forwarding is off. The first pool will enable it.
    NotForwarding,
    /// Chains of others drop forwarded packets, regardless of our rules.
    ForwardDropped { chains: Vec<String> },
    /// Dead runners have left garbage.
    Leftovers { networks: Vec<String> },
}

/// Checks this host. A trial network is made in a temporary namespace.
pub fn check(lock_path: &Path, range: Range) -> Vec<Check> {
    let mut checks = Vec::new();
    match probe() {
        Ok(()) => checks.push(Check::Works),
        Err(error) => checks.push(Check::Fails { reason: chain(&error) }),
    }
    match Host::open().and_then(|mut host| host.check_overlap(range)) {
        Err(error @ Error::RangeOverlaps { .. }) => {
            checks.push(Check::RangeTaken { reason: chain(&error) });
        }
        Ok(()) if !host::is_forwarding() => checks.push(Check::NotForwarding),
        _ => {}
    }
    match Host::open().and_then(|mut host| host.dropping_forward_chains()) {
        Ok(chains) if !chains.is_empty() => checks.push(Check::ForwardDropped { chains }),
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

/// Runs `work` as on a host of its own: in a new network namespace, which ends with everything that was
/// started in it.
pub fn in_new_namespace<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    Namespace::make(|| Ok(work())).map(|(_, done)| done)
}

/// Makes a whole network, except the link to the host.
fn probe() -> Result<()> {
    Namespace::make(|| {
        tap::make(guest::TAP)?;
        host::probe()?;
        let rules: Transaction = ruleset::make(guest::ADDRESS, &TrafficConfig::default(), 1);
        host::commit_rules(&rules)
    })
    .map(drop)
}
