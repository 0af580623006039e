//! Work that may wait, done by a thread of its own so that the subscription's never has to.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError, bounded};

use crate::error::Loss;
use crate::signal::Signal;

/// How long a given signal may take to end it. A callback and the system's resolver do not hear it.
const LONGEST_FAREWELL: Duration = Duration::from_secs(5);

/// A thread named `ably-errand` that ends with one result.
pub(crate) struct Errand<T> {
    result: Receiver<T>,
    thread: Option<JoinHandle<()>>,
    signal: Arc<Signal>,
}

impl<T: Send + 'static> Errand<T> {
    /// Starts the work, which gets the signal that ends it. `owner` is woken when it is done.
    pub(crate) fn start(
        owner: &Arc<Signal>,
        work: impl FnOnce(Arc<Signal>) -> T + Send + 'static,
    ) -> Result<Self, Loss> {
        let failed = |source| Loss::Thread { source };
        let signal = Signal::new().map_err(failed)?;
        let (sender, result) = bounded(1);
        let (bell, given) = (Bell(Arc::clone(owner)), Arc::clone(&signal));
        let thread = thread::Builder::new()
            .name("ably-errand".into())
            .spawn(move || {
                // Dropped last, so that the owner finds the result, or that there is none.
                let _bell = bell;
                let sender = sender;
                // There is room for it, and who does not want it any more is not there.
                let _ = sender.try_send(work(given));
            })
            .map_err(failed)?;
        Ok(Self { result, thread: Some(thread), signal })
    }

    /// The result, if it is there. None inside means that the work panicked.
    pub(crate) fn result(&self) -> Option<Option<T>> {
        match self.result.try_recv() {
            Ok(result) => Some(Some(result)),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(None),
        }
    }
}

impl<T> Drop for Errand<T> {
    fn drop(&mut self) {
        self.signal.give();
        let Some(thread) = self.thread.take() else {
            return;
        };
        let end = self.result.recv_timeout(LONGEST_FAREWELL);
        if matches!(end, Err(RecvTimeoutError::Timeout)) {
            log::error!("a thread does not end and is left behind; thread=ably-errand");
            return;
        }
        // It has sent its result or panicked, which was told already: what is left does not block.
        let _ = thread.join();
    }
}

/// Rings when it is dropped.
struct Bell(Arc<Signal>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::wait::wait;

    fn outcome<T: Send + 'static>(errand: &Errand<T>, owner: &Signal) -> Option<T> {
        loop {
            if let Some(result) = errand.result() {
                return result;
            }
            wait(owner, None, None).unwrap();
        }
    }

    #[test]
    fn the_owner_is_woken_by_the_result() {
        let owner = Signal::new().unwrap();
        let errand = Errand::start(&owner, |_| 7).unwrap();

        assert_eq!(outcome(&errand, &owner), Some(7));
    }

    #[test]
    fn the_owner_is_woken_by_a_panic() {
        let owner = Signal::new().unwrap();
        let errand = Errand::<()>::start(&owner, |_| panic!("on purpose")).unwrap();

        assert_eq!(outcome(&errand, &owner), None);
    }

    #[test]
    fn an_errand_that_is_dropped_ends() {
        let owner = Signal::new().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&ended);
        let errand = Errand::start(&owner, move |signal| {
            while !signal.is_given() {
                wait(&signal, None, None).unwrap();
            }
            theirs.store(true, Ordering::Release);
        })
        .unwrap();

        drop(errand);

        assert!(ended.load(Ordering::Acquire));
    }
}
