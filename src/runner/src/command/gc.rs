//! `runner gc`: removes what dead runners left.

use crate::cli::Global;
use crate::error::Result;
use crate::output;
use crate::vmm;

/// Remove what runners that died left behind: VMs, their processes, files and cgroups
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
    if !global.quiet {
        output::remark(format_args!("removed {} dead VMs", reclaimed.len()));
    }
    Ok(0)
}
