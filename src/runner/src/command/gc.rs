//! `runner gc`: removes resources of dead runners, and stale snapshots.

use crate::error::Result;
use crate::options::Global;
use crate::output;
use crate::vmm;

/// Remove VMs, processes, files, cgroups and networks of dead runners, and stale snapshots
///
/// Every command that starts a VM cleans up after dead runners first. Stale snapshots, which no
/// VM can be restored from any more, are removed by this command only.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

pub(crate) fn run(global: &Global, _arguments: &Arguments) -> Result<u8> {
    let reclaimed = vmm::reclaim(&global.state_dir)?;
    for id in &reclaimed {
        output::line(id)?;
    }
    let networks = vmm::reclaim_networks(global)?;
    for network in &networks {
        output::line(network)?;
    }
    let snapshots = vmm::remove_stale_snapshots(&global.state_dir)?;
    for snapshot in &snapshots {
        output::line(snapshot)?;
    }
    if !global.quiet {
        let (vms, networks, snapshots) = (reclaimed.len(), networks.len(), snapshots.len());
        output::remark(format_args!(
            "removed {vms} dead VMs, {networks} networks and {snapshots} stale snapshots"
        ));
    }
    Ok(0)
}
