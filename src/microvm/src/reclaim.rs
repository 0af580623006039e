//! Removes the VMs that dead runners left.
//!
//! A VM has no owner if its lock is free or its owner's process is dead. Its cgroup is killed and removed,
//! then its folder. Both are found by the VM's id, whatever the step at which its owner died.

use std::path::Path;
use std::time::Instant;

use process::Cgroup;
use sandbox::SandboxId;

use crate::folder::{self, lock_all};
use crate::record::is_owned;
use crate::{Error, Result, layout};

/// The parent of all VMs' cgroups, below the mount point.
pub(crate) const CGROUP_PARENT: &str = "sandbox-runner";

/// Kills and removes the VMs under `state` whose owner is dead; returns their ids. The error is that of
/// the first VM that could not be removed; the others are removed.
pub fn reclaim(state: &Path, deadline: Instant) -> Result<Vec<SandboxId>> {
    let vms = layout::vms(state);
    let mut reclaimed = Vec::new();
    if layout::ids(&vms)?.is_empty() {
        return Ok(reclaimed);
    }
    // Held to the end: a second runner that starts meanwhile waits.
    let _all = lock_all(&vms)?;
    let mut failed = Ok(());
    for id in layout::ids(&vms)? {
        // One failure does not stop the others.
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
    log::info!("vm of a dead runner removed; vm={id}");
    Ok(true)
}

/// Kills all processes of a VM of any runner. Its owner notices and releases the rest. Without processes
/// this does nothing; a start that waits in the queue is ended by its `Cancellation`.
pub fn kill(id: SandboxId) -> Result<()> {
    let Some(cgroup) = cgroup(id)? else {
        return Ok(());
    };
    match cgroup.kill() {
        // The VM ended meanwhile.
        Err(_) if !cgroup.path().exists() => Ok(()),
        killed => killed.map_err(Error::Process),
    }
}

fn cgroup(id: SandboxId) -> Result<Option<Cgroup>> {
    let parent = process::mount_point().map_err(Error::Process)?.join(CGROUP_PARENT);
    Cgroup::open(&parent, &id.to_string()).map_err(Error::Process)
}
