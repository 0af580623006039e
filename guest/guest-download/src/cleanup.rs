//! Removes files that an earlier run left in a reused VM.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Manifest, Result, instruction, stage};

/// Removes the manifest's cleanup paths. Logs errors; returns whether there were none.
pub(crate) fn run(manifest: &Manifest) -> bool {
    let mut success = true;
    for path in &manifest.cleanup {
        success &= log_error(remove(path, &manifest.kept));
    }
    for (mount, names) in &manifest.instruction_cleanup {
        success &= log_error(instruction::remove(mount, names));
    }
    success
}

fn log_error(result: Result<()>) -> bool {
    result.inspect_err(|error| log::error!("{}", base::error::chain(error))).is_ok()
}

fn remove(path: &Path, kept: &[PathBuf]) -> Result<()> {
    remove_except(path, kept).map_err(|source| Error::Stage { path: path.to_owned(), source })
}

/// Removes `path` except the `kept` paths and their parents.
fn remove_except(path: &Path, kept: &[PathBuf]) -> io::Result<()> {
    if kept.iter().any(|keep| path.starts_with(keep)) {
        return Ok(());
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.is_dir() => return fs::remove_file(path),
        Ok(_) => {}
    }
    if !kept.iter().any(|keep| keep.starts_with(path)) {
        return stage::remove(path);
    }
    for entry in fs::read_dir(path)? {
        remove_except(&entry?.path(), kept)?;
    }
    Ok(())
}
