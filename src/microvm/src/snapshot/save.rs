//! Publishes the files of a paused VM as a snapshot.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::{DISK, FILES, Key, MARKER, Marker, Snapshot, Store, remove};
use crate::disk;
use crate::error::file;
use crate::{Error, Result};

impl Store {
    /// Copies the files of a paused VM out of its monitor's folder, and publishes them as the snapshot of
    /// `key`. The caller holds the lock.
    ///
    /// The monitor may be hostile: links in its folder are not followed.
    pub(crate) fn publish(&self, key: &Key, monitors: &Path) -> Result<()> {
        let partial = self.folder.join(format!(".partial-{}", key.name()));
        remove(&partial)?;
        DirBuilder::new().mode(0o700).create(&partial).map_err(file("create", &partial))?;
        let published = self.fill(key, monitors, &partial);
        if published.is_err()
            && let Err(error) = remove(&partial)
        {
            log::error!("cannot remove an incomplete snapshot; error={error}");
        }
        published
    }

    fn fill(&self, key: &Key, monitors: &Path, partial: &Path) -> Result<()> {
        for (name, in_vm) in FILES.into_iter().chain([(DISK, "disk")]) {
            let (from, to) = (monitors.join(in_vm), partial.join(name));
            copy(&from, &to).map_err(|source| Error::CloneDisk {
                template: from,
                target: to,
                source,
            })?;
        }
        let unfinished = Snapshot::open(partial.to_owned()).map_err(file("open", partial))?;
        let sizes = unfinished.sizes().map_err(file("look at", partial))?;
        let digests = unfinished.digests().map_err(file("read", partial))?;
        let marker = Marker { sizes, digests, depends_on: key.depends_on.clone() };
        let path = partial.join(MARKER);
        let json = serde_json::to_vec_pretty(&marker)
            .map_err(|source| Error::Record { path: path.clone(), source })?;
        write(&path, &json).map_err(file("write", &path))?;
        sync(partial).map_err(file("sync", partial))?;
        rename_or_exchange(partial, &self.folder.join(key.name()))
            .map_err(file("rename", partial))?;
        remove(partial)?;
        sync(&self.folder).map_err(file("sync", &self.folder))
    }
}

/// Renames a snapshot to its name, atomically also where one exists.
fn rename_or_exchange(partial: &Path, folder: &Path) -> io::Result<()> {
    match renameat2(AT_FDCWD, partial, AT_FDCWD, folder, RenameFlags::RENAME_EXCHANGE) {
        Err(Errno::ENOENT) => fs::rename(partial, folder),
        exchanged => Ok(exchanged?),
    }
}

/// Copies a file without its holes, mode 0444.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(from)?;
    if !source.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let target = File::options().write(true).create_new(true).mode(0o444).open(to)?;
    disk::copy(&source, &target)?;
    target.sync_all()
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_snapshot_replaces_the_old_one_atomically() {
        let all = tempfile::tempdir().unwrap();
        let (partial, folder) = (all.path().join(".partial-1"), all.path().join("1"));
        for (path, text) in [(&folder, "old"), (&partial, "new")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join(DISK), text).unwrap();
        }
        rename_or_exchange(&partial, &folder).unwrap();
        assert_eq!(fs::read_to_string(folder.join(DISK)).unwrap(), "new");
        remove(&folder).unwrap();
        rename_or_exchange(&partial, &folder).unwrap();
        assert_eq!(fs::read_to_string(folder.join(DISK)).unwrap(), "old");
    }

    #[test]
    fn a_symbolic_link_in_the_monitors_folder_is_not_followed() {
        let all = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", all.path().join("state")).unwrap();
        assert!(copy(&all.path().join("state"), &all.path().join("copy")).is_err());
    }
}
