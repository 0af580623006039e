//! What an earlier run left in a machine that is used again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Error, Manifest, Result, instruction, stage};

/// Removes what the manifest says; true if all of it went. What did not is logged.
pub(crate) fn run(manifest: &Manifest) -> bool {
    let mut well = true;
    for path in &manifest.cleanup {
        well &= is_well(remove(path, &manifest.kept));
    }
    for (mount, names) in &manifest.instruction_cleanup {
        well &= is_well(instruction::remove(mount, names));
    }
    well
}

fn is_well(result: Result<()>) -> bool {
    result.inspect_err(|error| log::error!("{}", guest_common::chain(error))).is_ok()
}

fn remove(path: &Path, kept: &[PathBuf]) -> Result<()> {
    remove_but(path, kept).map_err(|source| Error::Stage { path: path.to_owned(), source })
}

/// Removes all of `path` but what is to be kept and the way there.
fn remove_but(path: &Path, kept: &[PathBuf]) -> io::Result<()> {
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
        remove_but(&entry?.path(), kept)?;
    }
    Ok(())
}
