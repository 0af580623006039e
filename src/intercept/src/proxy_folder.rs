//! The folder of a proxy with the addon and the authority, accessible only for the proxy's user.
//!
//! ```text
//! <runtime>/proxy-<random>/     0700, the proxy's user's
//!     main.py egress/           the addon
//!     mitmproxy-ca.pem          0600
//!     lock                      held by the owner as long as it lives
//! ```

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use base::error::chain;
use base::lock::{Lock, try_lock};
use nix::errno::Errno;
use tempfile::TempDir;

use crate::error::file;
use crate::{CertificateAuthority, Error, Result, addon};

const PREFIX: &str = "proxy-";
const LOCK: &str = "lock";
/// mitmproxy's name for the file.
const AUTHORITY: &str = "mitmproxy-ca.pem";

/// A proxy's folder. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct ProxyFolder {
    folder: TempDir,
    _lock: Lock,
}

impl ProxyFolder {
    /// Makes a folder for a user. Removes the folders of dead owners first.
    pub(crate) fn make(
        runtime_dir: &Path,
        authority: &CertificateAuthority,
        uid: u32,
    ) -> Result<Self> {
        let mut builder = DirBuilder::new();
        let created = builder.recursive(true).mode(0o755).create(runtime_dir);
        created.map_err(file("create", runtime_dir))?;
        reclaim(runtime_dir);
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(runtime_dir)
            .map_err(file("create a folder in", runtime_dir))?;
        let lock = lock(folder.path())?;
        addon::unpack(folder.path())?;
        let path = folder.path().join(AUTHORITY);
        write_secret(&path, authority.pem())?;
        if nix::unistd::geteuid().is_root() {
            give_away(folder.path(), uid)?;
        }
        Ok(Self { folder, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn script(&self) -> PathBuf {
        self.path().join(addon::MAIN)
    }
}

/// Removes the folders of dead owners.
fn reclaim(runtime_dir: &Path) {
    let Ok(entries) = fs::read_dir(runtime_dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        // A folder without a lock file is being made.
        let is_ours = name.is_some_and(|name| name.starts_with(PREFIX));
        let Some(lock) = is_ours.then(|| File::open(path.join(LOCK)).ok()).flatten() else {
            continue;
        };
        if let Ok(Ok(_lock)) = try_lock(lock) {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    log::warn!("cannot remove the folder of a dead proxy; error={}", chain(&error));
                }
                _ => log::info!("removed the folder of a dead proxy; path={}", path.display()),
            }
        }
    }
}

/// Locks the file before it gets its name, so that a named lock file is never free by chance.
fn lock(folder: &Path) -> Result<Lock> {
    let (path, unnamed) = (folder.join(LOCK), folder.join(".lock"));
    let opened = File::options().write(true).create_new(true).mode(0o600).open(&unnamed);
    let opened = opened.map_err(file("create", &path))?;
    let lock = try_lock(opened).map_err(file("lock", &path))?;
    let lock = lock.map_err(|_| file("lock", &path)(Errno::EWOULDBLOCK.into()))?;
    fs::rename(&unnamed, &path).map_err(file("create", &path))?;
    Ok(lock)
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    let opened = File::options().write(true).create_new(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(file("write to", path))
}

fn give_away(path: &Path, uid: u32) -> Result<()> {
    let failed = |source| Error::File { operation: "give away", path: path.to_owned(), source };
    chown(path, Some(uid), Some(uid)).map_err(failed)?;
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(file("read", path))? {
            give_away(&entry.map_err(file("read", path))?.path(), uid)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_private_and_the_folder_of_a_dead_owner_is_removed() {
        let place = tempfile::tempdir().unwrap();
        let authority = CertificateAuthority::open(place.path()).unwrap();
        let runtime = place.path().join("run");
        let living = ProxyFolder::make(&runtime, &authority, 1).unwrap();
        let dead = runtime.join("proxy-dead");
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join(LOCK), "").unwrap();

        let other = ProxyFolder::make(&runtime, &authority, 1).unwrap();

        assert!(living.path().exists() && other.path().exists() && !dead.exists());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(living.path()), 0o700);
        assert_eq!(mode(&living.path().join(AUTHORITY)), 0o600);
    }
}
