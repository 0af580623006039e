//! Files of fake sandboxes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::{Record, lock};
use crate::{Entry, EntryKind, Result, TreeItem, TreeReader, TreeWriter};

pub(super) struct FakeWriter {
    pub(super) target: PathBuf,
    pub(super) current: PathBuf,
    pub(super) record: Arc<Mutex<Record>>,
}

impl TreeWriter for FakeWriter {
    fn entry(&mut self, entry: &Entry, _deadline: Instant) -> Result<()> {
        lock(&self.record).entries.push(entry.clone());
        if matches!(entry.kind, EntryKind::Hole { .. }) {
            return Ok(());
        }
        let inner = !entry.path.as_os_str().is_empty();
        self.current = if inner { self.target.join(&entry.path) } else { self.target.clone() };
        if matches!(entry.kind, EntryKind::File { .. }) {
            lock(&self.record).files.insert(self.current.clone(), Vec::new());
        }
        Ok(())
    }

    fn data(&mut self, data: &[u8], _deadline: Instant) -> Result<()> {
        let mut record = lock(&self.record);
        record.files.entry(self.current.clone()).or_default().extend_from_slice(data);
        Ok(())
    }

    fn finish(self: Box<Self>, _deadline: Instant) -> Result<()> {
        Ok(())
    }
}

/// The remaining items, last first.
pub(super) struct FakeReader(pub(super) Vec<TreeItem>);

impl TreeReader for FakeReader {
    fn next(&mut self, _deadline: Instant) -> Result<Option<TreeItem>> {
        Ok(self.0.pop())
    }
}
