//! Pausing a VM, saving it, and going on from what was saved.
//!
//! What is saved names its disks, its tap and its sockets as it knew them: `rootfs`, `disk`, `tap0`,
//! `v.sock`. These are names in the VM's own root folder and namespace, so they are right in every VM.

use std::time::Instant;

use microvm::{SNAPSHOT_MEMORY, SNAPSHOT_STATE};

use crate::api::{
    BackendType, Client, MemoryBackend, SnapshotCreate, SnapshotLoad, SnapshotType, VmState,
};
use crate::boot::check_version;
use crate::version::Verdict;
use crate::{Error, Result};

/// Becomes the saved VM. Its guest runs when this returns, and finds its connections reset.
pub(crate) fn restore(client: &mut Client, deadline: Instant) -> Result<()> {
    let memory = MemoryBackend { backend_type: BackendType::File, backend_path: SNAPSHOT_MEMORY };
    let load = SnapshotLoad { snapshot_path: SNAPSHOT_STATE, mem_backend: memory, resume_vm: true };
    client.send(&load, deadline)
}

/// Saves the VM. It does not run any more.
pub(crate) fn save(client: &mut Client, deadline: Instant) -> Result<()> {
    pause(client, deadline)?;
    // The file gets holes where the guest never was: most of its memory.
    let create = SnapshotCreate {
        snapshot_type: SnapshotType::Diff,
        snapshot_path: SNAPSHOT_STATE,
        mem_file_path: SNAPSHOT_MEMORY,
    };
    client.send(&create, deadline)
}

/// Stops the VM's processors, where a guest is none the worse for it.
pub(crate) fn pause(client: &mut Client, deadline: Instant) -> Result<()> {
    // What is saved is used by the same program only, so this holds for going on, too.
    if let Verdict::Weak(reason) = check_version(client, deadline)? {
        return Err(Error::NoPause { reason });
    }
    client.send(&VmState::Paused, deadline)
}
