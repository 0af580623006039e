//! `runner gc`: removes what dead runners left.

use crate::cli::Global;
use crate::error::Result;
use crate::output;
use crate::vmm;

/// Remove what runners that died left behind: VMs, their processes, files, cgroups and networks
///
/// Every command that starts a VM does this first; it is never necessary to do it by hand.
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
    if !global.quiet {
        let (vms, networks) = (reclaimed.len(), networks.len());
        output::remark(format_args!("removed {vms} dead VMs and {networks} networks"));
    }
    Ok(0)
}
