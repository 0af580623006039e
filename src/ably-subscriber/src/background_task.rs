//! Blocking work on a thread of its own, so that the subscription's thread never blocks.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

use crate::error::ConnectionError;
use crate::signal::Signal;

/// How long a stopped task may take to end. The callback and the system's resolver cannot be interrupted.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A thread named `ably-task` with one result.
pub(crate) struct BackgroundTask<T> {
    result: Receiver<T>,
    thread: Option<JoinHandle<()>>,
    signal: Arc<Signal>,
}

impl<T: Send + 'static> BackgroundTask<T> {
    /// Starts the work, which is passed its stop signal. `owner` is woken when it ends.
    pub(crate) fn start(
        owner: &Arc<Signal>,
        work: impl FnOnce(Arc<Signal>) -> T + Send + 'static,
    ) -> Result<Self, ConnectionError> {
        let failed = |source| ConnectionError::Thread { source };
        let signal = Signal::new().map_err(failed)?;
        let (sender, result) = bounded(1);
        let (wake, stop) = (WakeOnDrop(Arc::clone(owner)), Arc::clone(&signal));
        let thread = thread::Builder::new()
            .name("ably-task".into())
            .spawn(move || {
                // Dropped last, so that the owner then finds the result, or a disconnected channel.
                let _wake = wake;
                let sender = sender;
                // The channel has room; the receiver may be gone.
                let _ = sender.try_send(work(stop));
            })
            .map_err(failed)?;
        Ok(Self { result, thread: Some(thread), signal })
    }

    /// The result, if there is one yet. The inner `None` means that the work panicked.
    pub(crate) fn result(&self) -> Option<Option<T>> {
        match self.result.try_recv() {
            Ok(result) => Some(Some(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(None),
        }
    }
}

impl<T> Drop for BackgroundTask<T> {
    fn drop(&mut self) {
        self.signal.stop();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let end = self.result.recv_timeout(STOP_TIMEOUT);
        if matches!(end, Err(RecvTimeoutError::Timeout)) {
            log::error!("a thread does not end and is leaked; thread=ably-task");
            return;
        }
        // It has sent its result or panicked, and the owner knows it: the join does not block.
        let _ = thread.join();
    }
}

/// Wakes the owner when it is dropped.
struct WakeOnDrop(Arc<Signal>);

impl Drop for WakeOnDrop {
    fn drop(&mut self) {
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::wait::wait;

    fn outcome<T: Send + 'static>(task: &BackgroundTask<T>, owner: &Signal) -> Option<T> {
        loop {
            if let Some(result) = task.result() {
                return result;
            }
            wait(owner, None, None).unwrap();
        }
    }

    #[test]
    fn the_result_of_a_task_wakes_its_owner() {
        let owner = Signal::new().unwrap();
        let task = BackgroundTask::start(&owner, |_| 7).unwrap();

        assert_eq!(outcome(&task, &owner), Some(7));
    }

    #[test]
    fn a_panic_of_a_task_wakes_its_owner() {
        let owner = Signal::new().unwrap();
        let task = BackgroundTask::<()>::start(&owner, |_| panic!("on purpose")).unwrap();

        assert_eq!(outcome(&task, &owner), None);
    }

    #[test]
    fn a_dropped_task_ends() {
        let owner = Signal::new().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&ended);
        let task = BackgroundTask::start(&owner, move |signal| {
            while !signal.is_stopped() {
                wait(&signal, None, None).unwrap();
            }
            theirs.store(true, Ordering::Release);
        })
        .unwrap();

        drop(task);

        assert!(ended.load(Ordering::Acquire));
    }
}
