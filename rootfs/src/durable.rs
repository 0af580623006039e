//! Writing so that a crash leaves either the old or the new: everything is
//! written beside its place, flushed to the disk, and renamed.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};

/// Replaces the file `path` with `bytes`.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension("new");
    let fail = |source| Error::Write { path: temporary.clone(), source };
    let mut file = File::create(&temporary).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    publish(&temporary, path)
}

/// Flushes `from`, a file or a folder of files, and gives it the name `to`.
pub(crate) fn publish(from: &Path, to: &Path) -> Result<()> {
    if from.is_dir() {
        let fail = |source| Error::Read { path: from.to_owned(), source };
        for entry in fs::read_dir(from).map_err(fail)? {
            sync(&entry.map_err(fail)?.path())?;
        }
    }
    sync(from)?;
    fs::rename(from, to).map_err(|source| Error::Rename {
        from: from.to_owned(),
        to: to.to_owned(),
        source,
    })?;
    to.parent().map_or(Ok(()), sync)
}

/// Creates a folder and its parents.
pub(crate) fn create_dir(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::CreateDir { path: path.to_owned(), source })
}

/// Removes a file, or a folder with all that is in it. Gone already is fine.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn sync(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|source| Error::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
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
    fn remove_of_something_absent_succeeds() {
        let dir = tempfile::tempdir().unwrap();

        remove(&dir.path().join("absent")).unwrap();
    }
}
