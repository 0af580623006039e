//! Writes files into a VM for the agent's user: folders with mode 0700, files with 0600.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use contract::guest::USER_ID;
use sandbox::{Entry, EntryKind, Owner, Sandbox, TreeWriter, WriteRequest};

use super::session::step_deadline;
use crate::error::Result;

/// The user that agents run as.
const OWNER: Owner = Owner { uid: USER_ID, gid: USER_ID };

const CHUNK: usize = 128 << 10;

/// A transfer of files. Dropping it unfinished leaves no partial file.
pub(crate) struct Upload {
    writer: Box<dyn TreeWriter>,
    folders: BTreeSet<PathBuf>,
}

impl Upload {
    /// Starts a transfer below an existing folder.
    pub(crate) fn begin(sandbox: &dyn Sandbox, folder: &str) -> Result<Self> {
        let request = WriteRequest {
            target: PathBuf::from(folder),
            make_parents: true,
            owner: Some(OWNER),
            ..WriteRequest::default()
        };
        let writer = sandbox.write(&request, step_deadline())?;
        Ok(Self { writer, folders: BTreeSet::new() })
    }

    /// Starts a file, and creates its missing parent folders.
    pub(crate) fn file(&mut self, path: &Path, size: u64) -> Result<()> {
        let parents: Vec<_> = path.ancestors().skip(1).collect();
        for folder in parents.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
            self.folder(folder)?;
        }
        self.entry(path, EntryKind::File { size }, 0o600)
    }

    /// Creates a folder unless this transfer has created it.
    pub(crate) fn folder(&mut self, path: &Path) -> Result<()> {
        if self.folders.insert(path.to_owned()) {
            self.entry(path, EntryKind::Directory, 0o700)?;
        }
        Ok(())
    }

    /// Appends data to the file that was started last.
    pub(crate) fn data(&mut self, data: &[u8]) -> Result<()> {
        for chunk in data.chunks(CHUNK) {
            self.writer.data(chunk, step_deadline())?;
        }
        Ok(())
    }

    /// Waits until the guest has written all files.
    pub(crate) fn finish(self) -> Result<()> {
        Ok(self.writer.finish(step_deadline())?)
    }

    fn entry(&mut self, path: &Path, kind: EntryKind, mode: u32) -> Result<()> {
        let entry = Entry { path: path.to_owned(), kind, mode, owner: Some(OWNER), modified: None };
        Ok(self.writer.entry(&entry, step_deadline())?)
    }
}
