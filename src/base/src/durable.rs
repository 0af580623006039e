//! Files that are replaced as a whole: a crash leaves either the old content or the new.
//! Everything is written beside its place, flushed to the disk, and renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A file operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}", path.display())]
pub struct Error {
    /// What was tried, as in "cannot write".
    pub operation: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

/// The result of this module's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// Replaces the file `path` with `bytes`, readable by all users as the umask allows.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_mode(path, bytes, 0o666)
}

/// As [`write()`], readable by its owner only.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    write_mode(path, bytes, 0o600)
}

fn write_mode(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let temporary = path.with_extension("new");
    // What an earlier crash left may have another mode.
    remove(&temporary)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(|source| fail("create", &temporary, source))?;
    file.write_all(bytes).map_err(|source| fail("write", &temporary, source))?;
    publish(&temporary, path)
}

/// Flushes `from`, a file or a folder of files, and gives it the name `to`.
pub fn publish(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        let read = |source| fail("read", from, source);
        for entry in fs::read_dir(from).map_err(read)? {
            sync(&entry.map_err(read)?.path())?;
        }
    }
    sync(from)?;
    fs::rename(from, to).map_err(|source| fail("rename", from, source))?;
    to.parent().map_or(Ok(()), sync)
}

/// Flushes a file's content, or a folder's entries, to the disk.
pub fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|file| file.sync_all()).map_err(|source| fail("flush", path, source))
}

/// Creates a folder and its parents.
pub fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| fail("create the folder", path, source))
}

/// Removes a file, or a folder with its content. An absent one is not an error.
pub fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(fail("remove", path, source))
        }
        _ => Ok(()),
    }
}

fn fail(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn write_replaces_the_file_and_leaves_nothing_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.json");
        fs::write(&path, "old").unwrap();

        write(&path, b"new").unwrap();

        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_private_file_is_private_even_over_a_public_leftover() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("key.new"), "leftover").unwrap();

        write_private(&dir.path().join("key"), b"k").unwrap();

        let mode = fs::metadata(dir.path().join("key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn publish_moves_a_folder_with_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir(&from).unwrap();
        fs::write(from.join("a"), "1").unwrap();

        publish(&from, &dir.path().join("to")).unwrap();

        assert_eq!(fs::read(dir.path().join("to/a")).unwrap(), b"1");
        assert!(!from.exists());
    }

    #[test]
    fn remove_of_an_absent_file_succeeds() {
        let dir = tempfile::tempdir().unwrap();

        remove(&dir.path().join("absent")).unwrap();
    }
}
