//! Pauses, saves and restores a VM.
//!
//! A snapshot has the paths of its disks, tap and sockets: `rootfs`, `disk`, `tap0`, `v.sock`. They are
//! relative to the VM's own root folder and namespace, so they are the same in every VM.

use std::time::Instant;

use microvm::{SNAPSHOT_MEMORY, SNAPSHOT_STATE};

use crate::api::{
    BackendType, Client, MemoryBackend, SnapshotCreate, SnapshotLoad, SnapshotType, VmState,
};
use crate::boot::check_version;
use crate::version::Verdict;
use crate::{Error, Result};

/// Restores a saved VM. Its guest runs when this returns; its connections are reset.
pub(crate) fn restore(client: &mut Client, deadline: Instant) -> Result<()> {
    let memory = MemoryBackend { backend_type: BackendType::File, backend_path: SNAPSHOT_MEMORY };
    let load = SnapshotLoad { snapshot_path: SNAPSHOT_STATE, mem_backend: memory, resume_vm: true };
    client.send(&load, deadline)
}

/// Saves the VM, which does not run afterwards.
pub(crate) fn save(client: &mut Client, deadline: Instant) -> Result<()> {
    pause(client, deadline)?;
    // Memory that the guest never touched, which is most of it, becomes holes.
    let create = SnapshotCreate {
        snapshot_type: SnapshotType::Diff,
        snapshot_path: SNAPSHOT_STATE,
        mem_file_path: SNAPSHOT_MEMORY,
    };
    client.send(&create, deadline)
}

/// Pauses the vCPUs; an error for versions whose guests do not survive it.
pub(crate) fn pause(client: &mut Client, deadline: Instant) -> Result<()> {
    // A snapshot is restored by the same program, so this covers restores, too.
    if let Verdict::Weak(reason) = check_version(client, deadline)? {
        return Err(Error::NoPause { reason });
    }
    client.send(&VmState::Paused, deadline)
}
