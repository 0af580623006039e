//! `runner gc`: removes what dead runners left.

use crate::error::Result;
use crate::options::Global;
use crate::output;
use crate::vmm;

/// Remove what runners that died left behind: VMs, their processes, files, cgroups and networks
///
/// Every command that starts a VM does this first; it is never necessary to do it by hand. Snapshots
/// that nothing can go on from any more, as what they depend on has changed, are removed here alone.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {}

/// Does it.
pub(crate) fn run(global: &Global, _arguments: &Arguments) -> Result<u8> {
    let reclaimed = vmm::reclaim(&global.state_dir)?;
    for id in &reclaimed {
        output::line(id)?;
    }
    let networks = vmm::reclaim_networks(global)?;
    for network in &networks {
        output::line(network)?;
    }
    let snapshots = vmm::sweep(&global.state_dir)?;
    for snapshot in &snapshots {
        output::line(snapshot)?;
    }
    if !global.quiet {
        let (vms, networks, snapshots) = (reclaimed.len(), networks.len(), snapshots.len());
        output::remark(format_args!(
            "removed {vms} dead VMs, {networks} networks and {snapshots} useless snapshots"
        ));
    }
    Ok(0)
}
