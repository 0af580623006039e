//! Where the folders of VMs are, and whether their owners hold them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use sandbox::SandboxId;

use crate::Result;
use crate::error::file;

/// The folder of all VMs in a state folder.
pub(crate) fn vms(state: &Path) -> PathBuf {
    state.join("vms")
}

/// The ids of all VMs' folders, with and without an owner.
pub(crate) fn ids(vms: &Path) -> Result<Vec<SandboxId>> {
    let entries = match fs::read_dir(vms) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(file("list", vms))?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// Whether the lock of a VM's folder is held.
pub(crate) fn is_locked(folder: &Path) -> Result<bool> {
    let path = folder.join("lock");
    let lock = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        other => other.map_err(file("open", &path))?,
    };
    match Flock::lock(lock, FlockArg::LockSharedNonblock) {
        Ok(_) => Ok(false),
        Err((_, Errno::EWOULDBLOCK)) => Ok(true),
        Err((_, errno)) => Err(file("lock", path)(errno.into())),
    }
}
