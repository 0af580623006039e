//! The guest's root: a read-only image below, a writable disk above.
//!
//! ```text
//!   /dev/vda squashfs ─▶ /lower ─┐
//!                                ├─▶ /overlay ─▶ moved to / ; then the initramfs is emptied
//!   /dev/vdb ext4 ────▶ /disk ───┘
//!                         └ /disk/containers/… ─▶ /overlay/var/lib/docker and its kind
//! ```
//!
//! Container engines stack overlays of their own, and the kernel takes no overlay as the upper layer of
//! another. So their files are in a folder of the disk itself. An image that has files of
//! its own there keeps them, and that folder stays in the overlay.
//!
//! `/lower` and `/disk` stay mounted below the old root, where no path leads any more.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, open};
use nix::mount::MsFlags;
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};

use crate::mount::{KERNEL, Mount, make_folder};
use crate::{Error, Result, mount};

/// The disk with the read-only image.
pub(crate) const ROOT: &str = "/dev/vda";
/// The disk that takes all changes.
pub(crate) const WRITABLE: &str = "/dev/vdb";

const OVERLAY: &str = "/overlay";

/// Not in nix: an initramfs is one of these where the kernel has no tmpfs.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);

const LAYERS: [Mount; 2] = [
    Mount {
        what: ROOT,
        target: "/lower",
        kind: "squashfs",
        flags: MsFlags::MS_RDONLY.union(MsFlags::MS_NODEV),
        options: "",
    },
    Mount {
        what: WRITABLE,
        target: "/disk",
        kind: "ext4",
        // Container layers may contain device nodes.
        flags: MsFlags::MS_NOATIME,
        // Its inode tables are holes, which are zeros already: to write them, as the kernel else does
        // for minutes, would only fill the host's disk.
        options: "noinit_itable",
    },
];

/// Where container engines keep images and containers; the image has these folders.
const CONTAINERS: [&str; 5] = [
    "var/lib/docker",
    "var/lib/containerd",
    "var/lib/containers",
    "home/user/.local/share/containers",
    "home/user/.local/share/docker",
];
const ON_DISK: &str = "/disk/containers";

/// The writable disk, which no path leads to.
#[derive(Debug)]
pub(crate) struct Disk(OwnedFd);

/// Mounts both disks and their overlay.
pub(crate) fn mount() -> Result<Disk> {
    LAYERS.iter().try_for_each(mount::mount)?;
    make_folder(Path::new("/disk/upper"))?;
    make_folder(Path::new("/disk/work"))?;
    mount::mount(&Mount {
        what: "overlay",
        target: OVERLAY,
        kind: "overlay",
        flags: MsFlags::MS_NOATIME,
        options: "lowerdir=/lower,upperdir=/disk/upper,workdir=/disk/work",
    })?;
    for folder in CONTAINERS {
        put_on_disk(folder)?;
    }
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let disk = open("/disk", flags, Mode::empty())
        .map_err(|errno| Error::Read { path: "/disk".into(), source: errno.into() })?;
    Ok(Disk(disk))
}

/// Mounts a folder of the disk over one of the overlay that is there and empty.
fn put_on_disk(folder: &str) -> Result<()> {
    let target = Path::new(OVERLAY).join(folder);
    let Ok(metadata) = fs::symlink_metadata(&target) else {
        return Ok(());
    };
    let is_empty = fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_none());
    if !metadata.is_dir() || !is_empty {
        log::debug!("stays in the overlay; folder=/{folder}");
        return Ok(());
    }
    let source = Path::new(ON_DISK).join(folder);
    make_folder(&source)?;
    let failed = |error| Error::MakeFolder { path: source.clone(), source: error };
    chown(&source, Some(metadata.uid()), Some(metadata.gid())).map_err(failed)?;
    fs::set_permissions(&source, metadata.permissions()).map_err(failed)?;
    let (none, flags) = (None::<&str>, MsFlags::MS_BIND);
    nix::mount::mount(Some(&source), &target, none, flags, none).map_err(|source| Error::Mount {
        what: "a folder of the disk",
        target,
        source,
    })
}

/// Makes the overlay the root.
pub(crate) fn switch() -> Result<()> {
    let failed = |operation| move |source| Error::SwitchRoot { operation, source };
    let old = statfs("/").map_err(failed("examine the initramfs"))?.filesystem_type();
    // All files of it are about to be deleted, so check that it is the initramfs.
    if old != TMPFS_MAGIC && old != RAMFS_MAGIC {
        return Err(Error::NoInitramfs);
    }
    let new = Path::new(OVERLAY);
    for Mount { target, .. } in &KERNEL {
        let below: PathBuf = new.join(target.trim_start_matches('/'));
        make_folder(&below)?;
        move_mount(Path::new(target), &below).map_err(failed("move the kernel's file systems"))?;
    }
    nix::unistd::chdir(new).map_err(failed("enter the new root"))?;
    empty(Path::new("/"));
    move_mount(Path::new("."), Path::new("/")).map_err(failed("move the new root"))?;
    nix::unistd::chroot(".").map_err(failed("change the root"))?;
    nix::unistd::chdir("/").map_err(failed("enter the root"))?;
    // Shared propagation, as systemd sets it: containers see later mounts in shared folders.
    let (none, flags) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_SHARED);
    nix::mount::mount(none, "/", none, flags, none).map_err(failed("share mounts"))
}

/// Syncs the disk and remounts it read-only.
pub(crate) fn seal(disk: &Disk) {
    nix::unistd::sync();
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    let disk = PathBuf::from(format!("/proc/self/fd/{}", disk.0.as_raw_fd()));
    for path in [Path::new("/"), &disk] {
        let none = None::<&str>;
        if let Err(errno) = nix::mount::mount(none, path, none, flags, none) {
            // Synced data is safe; the journal recovers the rest.
            log::debug!("stays writable; path={} error={errno}", path.display());
        }
    }
}

fn move_mount(from: &Path, to: &Path) -> nix::Result<()> {
    nix::mount::mount(Some(from), to, None::<&str>, MsFlags::MS_MOVE, None::<&str>)
}

/// Deletes the folder's content to free its memory; does not enter other file systems.
fn empty(folder: &Path) {
    let emptied = fs::metadata(folder).and_then(|top| empty_of(folder, top.dev()));
    if let Err(error) = emptied {
        log::warn!("some of the initramfs stays in memory; error={error}");
    }
}

fn empty_of(folder: &Path, device: u64) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let metadata = fs::symlink_metadata(&path)?;
        if metadata.dev() != device {
            continue;
        }
        if metadata.is_dir() {
            empty_of(&path, device)?;
            // Mount points and their parents stay.
            let _ = fs::remove_dir(&path);
        } else {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn emptying_a_folder_follows_no_link() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("kept"), "").unwrap();
        fs::create_dir_all(folder.path().join("a/b")).unwrap();
        fs::write(folder.path().join("a/b/file"), "").unwrap();
        symlink(outside.path(), folder.path().join("a/link")).unwrap();
        empty(folder.path());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        assert!(outside.path().join("kept").exists());
    }
}
