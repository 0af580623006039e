//! A thread whose result the main thread looks at when the bell rings.

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use crate::bell::Bell;
use crate::{Error, Result};

/// A thread with a result.
pub(crate) struct Worker<T> {
    name: &'static str,
    result: Arc<Mutex<Option<Result<T>>>>,
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
        let (into, bell) = (Arc::clone(&result), bell.clone());
        let run = move || {
            let mut end = End { name, done: None, into, bell };
            end.done = Some(work());
        };
        let thread = Builder::new().name(name.into()).spawn(run);
        let thread = thread.map_err(|source| Error::Thread { name, source })?;
        Ok(Self { name, result, taken: Cell::new(false), thread })
    }

    /// Its result, once, if it is done; an error if it panicked.
    pub(crate) fn take(&self) -> Option<Result<T>> {
        if self.taken.get() {
            return None;
        }
        let done = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.taken.set(done.is_some());
        done
    }

    /// What is to be seen in its result, which stays to be taken, if it is done; an error if it
    /// panicked.
    pub(crate) fn peek<R>(&self, see: impl FnOnce(&T) -> R) -> Option<Result<R>> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        match result.as_ref()? {
            Ok(done) => Some(Ok(see(done))),
            Err(_) => Some(Err(Error::Panic { name: self.name })),
        }
    }

    /// Waits for its end, which must have been asked for.
    pub(crate) fn join(self) {
        if self.thread.join().is_err() {
            log::error!("a thread panicked; name={}", self.name);
        }
    }
}

/// The end of the thread, however it ends: its result is there before the bell rings.
struct End<T> {
    name: &'static str,
    done: Option<T>,
    into: Arc<Mutex<Option<Result<T>>>>,
    bell: Bell,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let done = self.done.take().ok_or(Error::Panic { name: self.name });
        *self.into.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_panic_is_a_result_when_the_bell_rings_and_can_be_seen_before_it_is_taken() {
        let bell = Bell::new().unwrap();
        let worker = Worker::<u8>::start("worker", &bell, || panic!("as it should")).unwrap();
        assert!(bell.wait_until(Instant::now() + Duration::from_secs(60)));
        let seen = worker.peek(|_| ()).unwrap().unwrap_err();
        assert_eq!(seen.to_string(), "the thread worker panicked");
        assert!(matches!(worker.take(), Some(Err(Error::Panic { name: "worker" }))));
        assert!(worker.take().is_none());
        worker.join();
    }
}
