//! Makes, moves and removes files and folders.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use files_proto::{Code, Summary};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::entry::{Follow, describe};
use crate::error::{fail, failed, invalid};
use crate::{Context, Result};

pub(crate) fn make_dir<W: Write>(context: &mut Context<'_, W>, path: &str) -> Result<Summary> {
    let path = context.absolute(path)?;
    let existed = match fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => true,
        Ok(_) => {
            let message = format!("cannot make the folder {}: a file is there", path.display());
            return Err(fail(Code::NotADirectory, message));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::create_dir_all(&path).map_err(failed("make the folder", &path))?;
            false
        }
        Err(error) => return Err(failed("make the folder", &path)(error)),
    };
    let described = describe(&path, Follow::No, &context.names).map_err(failed("read", &path))?;
    Ok(Summary { existed, ..context.output.entry(described)? })
}

pub(crate) fn rename<W: Write>(
    context: &mut Context<'_, W>,
    source: &str,
    destination: &str,
) -> Result<Summary> {
    let (source, destination) = (context.absolute(source)?, context.absolute(destination)?);
    // Before anything is made for what is not there.
    fs::symlink_metadata(&source).map_err(failed("move", &source))?;
    if let Some(parent) = destination.parent() {
        fs::create_dir_all(parent).map_err(failed("make the folder", parent))?;
    }
    let operation = format!("move {} to", source.display());
    fs::rename(&source, &destination).map_err(failed(&operation, &destination))?;
    let described = describe(&destination, Follow::No, &context.names);
    context.output.entry(described.map_err(failed("read", &destination))?)
}

pub(crate) fn remove<W: Write>(context: &mut Context<'_, W>, path: &str) -> Result<Summary> {
    let path = context.absolute(path)?;
    let metadata = fs::symlink_metadata(&path).map_err(failed("remove", &path))?;
    if is_root(&metadata, &path)? {
        return Err(invalid(format!("cannot remove {}: it is the root folder", path.display())));
    }
    let removed = if metadata.is_dir() {
        allow_deep_folders();
        fs::remove_dir_all(&path)
    } else {
        fs::remove_file(&path)
    };
    removed.map_err(failed("remove", &path))?;
    Ok(Summary::default())
}

fn is_root(metadata: &fs::Metadata, path: &Path) -> Result<bool> {
    let root = fs::metadata("/").map_err(failed("remove", path))?;
    Ok((root.dev(), root.ino()) == (metadata.dev(), metadata.ino()))
}

/// The removal of a folder holds a descriptor for each level.
fn allow_deep_folders() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Where it fails, only very deep folders cannot be removed.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
