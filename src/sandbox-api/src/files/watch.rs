//! Changes in a folder of a sandbox.

use std::sync::Arc;
use std::time::Instant;

use base::event::Event as Wake;
use files_proto::{Event, Reply};
use sandbox::Execution;

use super::call::Call;
use super::error::{Error, Result};

/// A watched folder. The watch ends when this and its handles are dropped.
pub struct Watch {
    call: Call,
}

/// What a watch reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// Something changed.
    Event(Box<Event>),
    /// All changes before a [`WatchHandle::request_sync`] are reported; one for each, in their order.
    Synced,
}

/// Controls a watch from another thread than the one that waits in [`Watch::next`].
#[derive(Clone)]
pub struct WatchHandle {
    execution: Arc<dyn Execution>,
}

impl Watch {
    pub(super) fn start(mut call: Call, deadline: Instant) -> Result<Self> {
        match call.next(Some(deadline))? {
            Reply::Watching {} => Ok(Self { call }),
            Reply::Error(failure) => Err(Error::Failed(failure)),
            _ => Err(Error::Malformed),
        }
    }

    /// Waits for the next item. At the deadline it fails with [`sandbox::Error::TimedOut`], and may be called
    /// again. Any other error is final: the folder is gone, changes were lost, or the sandbox ended.
    pub fn next(&mut self, deadline: Option<Instant>) -> Result<WatchItem> {
        item(self.call.next(deadline)?)
    }

    /// The next item, if it is there. Errors are as those of [`Watch::next`].
    pub fn try_next(&mut self) -> Result<Option<WatchItem>> {
        self.call.try_next()?.map(item).transpose()
    }

    /// Set by what comes after [`Watch::try_next`] has returned nothing.
    pub fn wake(&self) -> &Wake {
        self.call.changed()
    }

    /// Makes [`Watch::next`] fail with [`Error::Closed`] from when `closed` is set. It may be called again after that.
    pub fn until(&mut self, closed: Arc<Wake>) {
        self.call.end_waits_at(closed);
    }

    /// A handle for other threads.
    pub fn handle(&self) -> WatchHandle {
        WatchHandle { execution: Arc::clone(self.call.execution()) }
    }
}

fn item(reply: Reply) -> Result<WatchItem> {
    match reply {
        Reply::Event(event) => Ok(WatchItem::Event(Box::new(event))),
        Reply::Synced {} => Ok(WatchItem::Synced),
        Reply::Error(failure) => Err(Error::Failed(failure)),
        _ => Err(Error::Malformed),
    }
}

impl WatchHandle {
    /// Asks for [`WatchItem::Synced`].
    pub fn request_sync(&self, deadline: Instant) -> Result<()> {
        Ok(self.execution.write_stdin(b"\n", Some(deadline))?)
    }

    /// Ends the watch: [`Watch::next`] fails.
    pub fn stop(&self, deadline: Instant) -> Result<()> {
        Ok(self.execution.cancel(deadline)?)
    }
}
