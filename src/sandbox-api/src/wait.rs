//! Waiting for a command of a sandbox, until the sandbox is paused or ended.

use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use base::deadline::poll_until;
use base::event::Event;
use nix::poll::{PollFd, PollFlags};
use sandbox::{Error, Execution};

/// Wakes the calls that wait for one command.
pub(crate) struct Waiter {
    /// Set when the command did something.
    changed: Arc<Event>,
    /// Set when the sandbox is paused or ended.
    closed: Option<Arc<Event>>,
}

/// Why a wait ended without a result.
#[derive(Debug)]
pub(crate) enum Stopped {
    Sandbox(Error),
    /// The sandbox was paused or ended.
    Closed,
}

impl Waiter {
    pub(crate) fn new(
        execution: &dyn Execution,
        closed: Option<Arc<Event>>,
    ) -> Result<Self, Stopped> {
        let changed = Arc::new(event()?);
        execution.notify(&changed);
        Ok(Self { changed, closed })
    }

    /// Set when the command did something.
    pub(crate) fn changed(&self) -> &Event {
        &self.changed
    }

    /// Ends waits when `closed` is set.
    pub(crate) fn end_at(&mut self, closed: Arc<Event>) {
        self.closed = Some(closed);
    }

    /// Makes the attempt again and again until it has a result.
    pub(crate) fn wait<T>(
        &self,
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Stopped> {
        let since = Instant::now();
        loop {
            self.changed.clear();
            if let Some(result) = attempt().map_err(Stopped::Sandbox)? {
                return Ok(result);
            }
            if self.closed.as_ref().is_some_and(|closed| closed.is_set()) {
                return Err(Stopped::Closed);
            }
            let events = [Some(&self.changed), self.closed.as_ref()].into_iter().flatten();
            let mut fds: Vec<_> =
                events.map(|event| PollFd::new(event.as_fd(), PollFlags::POLLIN)).collect();
            match poll_until(&mut fds, deadline) {
                Ok(0) => {
                    let phase = "waiting for a command of the sandbox".to_owned();
                    let after = since.elapsed();
                    return Err(Stopped::Sandbox(Error::TimedOut { phase, after }));
                }
                Ok(_) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Writes all of `data` to the command's standard input.
    pub(crate) fn write(
        &self,
        execution: &dyn Execution,
        mut data: &[u8],
        deadline: Instant,
    ) -> Result<(), Stopped> {
        while !data.is_empty() {
            let count = self.wait(Some(deadline), || {
                let count = execution.write_some(data, deadline)?;
                Ok(Some(count).filter(|count| *count > 0))
            })?;
            data = data.get(count..).unwrap_or_default();
        }
        Ok(())
    }
}

/// The next event of a command, if it is there.
pub(crate) fn try_next(execution: &dyn Execution) -> Result<Option<sandbox::Event>, Error> {
    match execution.next(Some(Instant::now())) {
        Err(Error::TimedOut { .. }) => Ok(None),
        next => next.map(Some),
    }
}

/// An event that is not set.
pub(crate) fn event() -> Result<Event, Stopped> {
    Event::new().map_err(failed)
}

fn failed(errno: nix::Error) -> Stopped {
    Stopped::Sandbox(Error::Event { source: errno.into() })
}
