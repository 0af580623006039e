//! Files for the user of a VM's agent: below one folder, folders 0700, files 0600.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sandbox::{Entry, EntryKind, Owner, Sandbox, TreeWriter, WriteRequest};

use super::session::step;
use crate::error::Result;

/// The user as whom agents run.
const OWNER: Owner = Owner { uid: 1000, gid: 1000 };

const CHUNK: usize = 128 << 10;

/// Files that are being written. Dropping it unfinished leaves no partial file.
pub(crate) struct Delivery {
    writer: Box<dyn TreeWriter>,
    folders: BTreeSet<PathBuf>,
}

impl Delivery {
    /// Begins, below a folder that is there.
    pub(crate) fn begin(sandbox: &dyn Sandbox, folder: &str) -> Result<Self> {
        let request = WriteRequest {
            target: PathBuf::from(folder),
            make_parents: true,
            owner: Some(OWNER),
            ..WriteRequest::default()
        };
        let writer = sandbox.write(&request, step())?;
        Ok(Self { writer, folders: BTreeSet::new() })
    }

    /// Begins a file, in folders that are made if they are not there.
    pub(crate) fn file(&mut self, path: &Path, size: u64) -> Result<()> {
        let parents: Vec<_> = path.ancestors().skip(1).collect();
        for folder in parents.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
            self.folder(folder)?;
        }
        self.entry(path, EntryKind::File { size }, 0o600)
    }

    /// Makes a folder if it is not there.
    pub(crate) fn folder(&mut self, path: &Path) -> Result<()> {
        if self.folders.insert(path.to_owned()) {
            self.entry(path, EntryKind::Directory, 0o700)?;
        }
        Ok(())
    }

    /// More of the file that was begun last.
    pub(crate) fn data(&mut self, data: &[u8]) -> Result<()> {
        for chunk in data.chunks(CHUNK) {
            self.writer.data(chunk, step())?;
        }
        Ok(())
    }

    /// Waits until all is in its place.
    pub(crate) fn finish(self) -> Result<()> {
        Ok(self.writer.finish(step())?)
    }

    fn entry(&mut self, path: &Path, kind: EntryKind, mode: u32) -> Result<()> {
        let entry = Entry { path: path.to_owned(), kind, mode, owner: Some(OWNER), modified: None };
        Ok(self.writer.entry(&entry, step())?)
    }
}
