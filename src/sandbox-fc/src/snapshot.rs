//! Saving a VM, and going on from what was saved.
//!
//! What is saved names its disks, its tap and its sockets as it knew them: `rootfs`, `disk`, `tap0`,
//! `v.sock`. These are names in the VM's own root folder and namespace, so they are right in every VM.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Instant;

use microvm::{SNAPSHOT_MEMORY, SNAPSHOT_STATE};

use crate::api::{
    BackendType, Client, MemoryBackend, SnapshotCreate, SnapshotLoad, SnapshotType, VmState,
};
use crate::boot::check_version;
use crate::monitor::SOCKET;
use crate::version::Verdict;
use crate::{Error, Result};

/// Becomes the saved VM. Its guest runs when this returns, and finds its connections reset.
pub(crate) fn restore(client: &mut Client, deadline: Instant) -> Result<()> {
    let memory = MemoryBackend { backend_type: BackendType::File, backend_path: SNAPSHOT_MEMORY };
    let load = SnapshotLoad { snapshot_path: SNAPSHOT_STATE, mem_backend: memory, resume_vm: true };
    client.send(&load, deadline)
}

/// Saves the VM of the monitor whose folder it is. The VM does not run any more.
pub(crate) fn save(folder: &Path, deadline: Instant) -> Result<()> {
    let failed = |source| Error::Connect { socket: folder.join(SOCKET), source };
    // By way of the descriptor: a socket's address is short, the folder's path need not be.
    let opened = File::open(folder).map_err(failed)?;
    let socket = format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd());
    let mut client = Client::connect(Path::new(&socket))?;
    // What is saved is used by the same program only, so this holds for going on, too.
    if let Verdict::Weak(reason) = check_version(&mut client, deadline)? {
        return Err(Error::NoSnapshots { reason });
    }
    client.send(&VmState::Paused, deadline)?;
    // The file gets holes where the guest never was: most of its memory.
    let create = SnapshotCreate {
        snapshot_type: SnapshotType::Diff,
        snapshot_path: SNAPSHOT_STATE,
        mem_file_path: SNAPSHOT_MEMORY,
    };
    client.send(&create, deadline)
}
