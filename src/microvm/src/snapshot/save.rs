//! Making a snapshot out of what a paused VM left in its folder.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::{DISK, FILES, Key, MARKER, Marker, Snapshot, Store, remove};
use crate::disk;
use crate::error::file;
use crate::{Error, Result};

impl Store {
    /// Copies the files of a paused VM out of its monitor's folder, and publishes them as the one
    /// snapshot of their key. The lock is held by the caller.
    ///
    /// The folder is the monitor's, which might be hostile: no link in it is followed.
    pub(crate) fn publish(&self, key: &Key, monitors: &Path) -> Result<()> {
        let partial = self.folder.join(format!(".partial-{}", key.name()));
        remove(&partial)?;
        DirBuilder::new().mode(0o700).create(&partial).map_err(file("create", &partial))?;
        let published = self.fill(key, monitors, &partial);
        if published.is_err()
            && let Err(error) = remove(&partial)
        {
            log::error!("half a snapshot stays; error={error}");
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
        let unfinished = Snapshot { folder: partial.to_owned() };
        let sizes = unfinished.sizes().map_err(file("look at", partial))?;
        let marker = Marker { sizes, depends_on: key.depends_on.clone() };
        let path = partial.join(MARKER);
        let json = serde_json::to_vec_pretty(&marker)
            .map_err(|source| Error::Record { path: path.clone(), source })?;
        write(&path, &json).map_err(file("write", &path))?;
        sync(partial).map_err(file("sync", partial))?;
        let folder = self.folder.join(key.name());
        remove(&folder)?;
        fs::rename(partial, &folder).map_err(file("rename", partial))?;
        sync(&self.folder).map_err(file("sync", &self.folder))
    }
}

/// Without its holes, to a file that all monitors may read.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let source = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(from)?;
    if !source.metadata()?.is_file() {
        return Err(io::Error::other("it is no file"));
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
