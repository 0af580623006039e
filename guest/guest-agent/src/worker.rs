//! A thread whose result the main thread looks at when the bell rings.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::bell::Bell;
use crate::{Error, Result};

/// A thread with a result.
pub(crate) struct Worker<T> {
    name: &'static str,
    result: Arc<Mutex<Option<T>>>,
    taken: Cell<bool>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `work`; the bell rings when it is done, also if it panics.
    pub(crate) fn start(
        name: &'static str,
        bell: &Bell,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Self> {
        let result = Arc::new(Mutex::new(None));
        let (into, ringing) = (Arc::clone(&result), Ringing(bell.clone()));
        let run = move || {
            let _ringing = ringing;
            let done = work();
            *into.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        };
        let thread = Builder::new().name(name.into()).spawn(run);
        let thread = thread.map_err(|source| Error::Thread { name, source })?;
        Ok(Self { name, result, taken: Cell::new(false), thread })
    }

    /// Its result, once, if it is done. One that panicked is done without a result.
    pub(crate) fn take(&self) -> Option<Result<T>> {
        if self.taken.get() {
            return None;
        }
        let finished = self.thread.is_finished();
        let done = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        let done = match done {
            Some(done) => Some(Ok(done)),
            None if finished => Some(Err(Error::Panic { name: self.name })),
            None => None,
        };
        self.taken.set(done.is_some());
        done
    }

    /// Waits for its end, which must have been asked for.
    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            log::error!("a thread panicked; name={}", self.name);
        }
    }
}

/// Rings when the thread ends, however it does.
struct Ringing(Bell);

impl Drop for Ringing {
    fn drop(&mut self) {
        self.0.ring();
    }
}
