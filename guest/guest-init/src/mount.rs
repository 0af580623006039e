//! Mounting, and the file systems of every guest.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::MsFlags;

use crate::{Error, Result};

/// A file system to mount.
pub(crate) struct Mount {
    /// The device, or a name to display.
    pub(crate) what: &'static str,
    pub(crate) target: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) flags: MsFlags,
    pub(crate) options: &'static str,
}

const PLAIN: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const DATA: MsFlags = PLAIN.union(MsFlags::MS_NOEXEC);

/// The kernel's file systems and devices. They move to the guest's root.
pub(crate) const KERNEL: [Mount; 3] = [
    Mount {
        what: "devtmpfs",
        target: "/dev",
        kind: "devtmpfs",
        flags: MsFlags::MS_NOSUID,
        options: "mode=755",
    },
    Mount { what: "proc", target: "/proc", kind: "proc", flags: DATA, options: "" },
    Mount { what: "sysfs", target: "/sys", kind: "sysfs", flags: DATA, options: "" },
];

/// Further file systems that programs expect.
const PROGRAMS: [Mount; 4] = [
    Mount {
        what: "devpts",
        target: "/dev/pts",
        kind: "devpts",
        flags: MsFlags::MS_NOSUID.union(MsFlags::MS_NOEXEC),
        options: "gid=5,mode=620,ptmxmode=666",
    },
    Mount { what: "shm", target: "/dev/shm", kind: "tmpfs", flags: PLAIN, options: "mode=1777" },
    Mount { what: "run", target: "/run", kind: "tmpfs", flags: PLAIN, options: "mode=755" },
    Mount {
        what: "cgroup2",
        target: "/sys/fs/cgroup",
        kind: "cgroup2",
        flags: DATA,
        options: "nsdelegate,memory_recursiveprot",
    },
];

/// Mounts the file systems that the boot needs.
pub(crate) fn kernel_file_systems() -> Result<()> {
    KERNEL.iter().try_for_each(mount)
}

/// Mounts the other file systems of every guest.
pub(crate) fn program_file_systems() -> Result<()> {
    PROGRAMS.iter().try_for_each(mount)
}

/// Mounts one file system; creates its target if missing.
pub(crate) fn mount(mount: &Mount) -> Result<()> {
    make_folder(Path::new(mount.target))?;
    nix::mount::mount(
        Some(mount.what),
        mount.target,
        Some(mount.kind),
        mount.flags,
        Some(mount.options),
    )
    .map_err(|source| Error::Mount { what: mount.what, target: mount.target.into(), source })
}

/// Creates a folder if missing.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| Error::MakeFolder { path: path.to_owned(), source })
}
