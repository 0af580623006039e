//! What dead runners left behind.
//!
//! A VM whose lock is free, or whose owner is dead, has none: its cgroup is killed and removed, then
//! its folder. All is found by the VM's id, so it does not matter at which step its owner died.

use std::path::Path;
use std::time::Instant;

use process::Cgroup;
use sandbox::SandboxId;

use crate::folder::{self, lock_all};
use crate::record::is_owned;
use crate::{Error, Result, gate};

/// The cgroup above those of all VMs, below the mount point.
pub(crate) const CGROUP_PARENT: &str = "sandbox-runner";

/// Ends and removes the VMs under `state` whose owner is dead; returns which. What a living runner
/// owns is not touched. An error is of the first that could not be removed; the others are gone.
pub fn reclaim(state: &Path, deadline: Instant) -> Result<Vec<SandboxId>> {
    let vms = folder::vms(state);
    let mut reclaimed = Vec::new();
    if folder::ids(&vms)?.is_empty() {
        return Ok(reclaimed);
    }
    // Held to the end: a second runner that starts meanwhile waits for a clean host.
    let _all = lock_all(&vms)?;
    let mut failed = Ok(());
    for id in folder::ids(&vms)? {
        // One that resists does not keep the others.
        match reclaim_one(&vms, id, deadline) {
            Ok(true) => reclaimed.push(id),
            Ok(false) => {}
            Err(error) => failed = failed.and(Err(error)),
        }
    }
    failed.map(|()| reclaimed)
}

/// `false` if its owner lives.
fn reclaim_one(vms: &Path, id: SandboxId, deadline: Instant) -> Result<bool> {
    let path = vms.join(id.to_string());
    if is_owned(&path, id)? {
        return Ok(false);
    }
    if let Some(cgroup) = cgroup(id)? {
        cgroup.destroy(deadline).map_err(Error::Process)?;
    }
    folder::remove(&path)?;
    log::info!("reclaimed what a dead runner left; vm={id}");
    Ok(true)
}

/// Kills all processes of a VM, whoever owns it and at whatever point of its life it is; one that
/// has none yet, or none any more, is left alone, unless it waits for its turn to start in this
/// process. Its owner sees that and clears up.
pub fn kill(id: SandboxId) -> Result<()> {
    gate::call_off(id);
    let Some(cgroup) = cgroup(id)? else {
        return Ok(());
    };
    match cgroup.kill() {
        // It ended by itself just now.
        Err(_) if !cgroup.path().exists() => Ok(()),
        killed => killed.map_err(Error::Process),
    }
}

fn cgroup(id: SandboxId) -> Result<Option<Cgroup>> {
    let parent = process::mount_point().map_err(Error::Process)?.join(CGROUP_PARENT);
    Cgroup::open(&parent, &id.to_string()).map_err(Error::Process)
}
