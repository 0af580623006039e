//! Lists a folder.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::vec;

use files_proto::{Code, Kind, MAX_ENTRIES, Reply, Summary};

use crate::entry::{Follow, describe};
use crate::error::{fail, failed, invalid};
use crate::{Context, Result};

/// A folder whose entries are sent one after another.
struct Folder {
    path: PathBuf,
    names: vec::IntoIter<OsString>,
}

/// Sends the entries of a folder in the order of their names, each folder before what is in it.
pub(crate) fn list<W: Write>(
    context: &mut Context<'_, W>,
    path: &str,
    depth: u32,
) -> Result<Summary> {
    let top = context.absolute(path)?;
    if depth == 0 {
        return Err(invalid(format!("cannot list {}: the depth is 0", top.display())));
    }
    let mut summary = Summary::default();
    // Names that are known, of entries that are sent or will be.
    let mut count = 0;
    let mut open = vec![Folder::read(&top, &mut count).map_err(failed("list", &top))?];
    while let Some(folder) = open.last_mut() {
        if count > MAX_ENTRIES {
            return Err(too_many(&top));
        }
        let Some(name) = folder.names.next() else {
            open.pop();
            continue;
        };
        let path = folder.path.join(name);
        let (entry, lossy) = match describe(&path, Follow::No, &context.names) {
            // Removed since the folder was read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            described => described.map_err(failed("read", &path))?,
        };
        let is_folder = entry.kind == Kind::Dir;
        context.output.reply(&Reply::Entry(entry))?;
        summary.lossy_names += u64::from(lossy.0);
        if is_folder && open.len() < usize::try_from(depth).unwrap_or(usize::MAX) {
            match Folder::read(&path, &mut count) {
                Ok(below) => open.push(below),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    summary.unreadable += 1;
                }
                Err(error) => return Err(failed("list", &path)(error)),
            }
        }
    }
    Ok(summary)
}

impl Folder {
    /// Reads and sorts the names in a folder, until `count` of all names is over the limit.
    fn read(path: &Path, count: &mut usize) -> io::Result<Self> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            names.push(entry?.file_name());
            *count += 1;
            if *count > MAX_ENTRIES {
                break;
            }
        }
        names.sort_unstable();
        Ok(Self { path: path.to_owned(), names: names.into_iter() })
    }
}

fn too_many(path: &Path) -> crate::Error {
    let message = format!(
        "cannot list {}: it has more than {MAX_ENTRIES} entries; list its folders one by one",
        path.display()
    );
    fail(Code::TooMany, message)
}
