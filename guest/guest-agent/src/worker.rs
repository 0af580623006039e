//! A thread that wakes the main thread when its result is ready.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::JoinHandle;

use base::sync::Mutex;

use crate::waker::Waker;
use crate::{Error, Result};

/// A thread with a result that can be polled.
pub(crate) struct Worker<T> {
    name: &'static str,
    result: Arc<Mutex<Option<Result<T>>>>,
    taken: Cell<bool>,
    thread: JoinHandle<()>,
}

impl<T: Send + 'static> Worker<T> {
    /// Starts `work` in a thread. Wakes the main thread when it returns or panics.
    pub(crate) fn start(
        name: &'static str,
        waker: &Waker,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Self> {
        let result = Arc::new(Mutex::new(None));
        let (into, waker) = (Arc::clone(&result), waker.clone());
        let run = move || {
            let mut end = End { name, done: None, into, waker };
            end.done = Some(work());
        };
        let thread = base::thread::spawn(name, run);
        let thread = thread.map_err(|source| Error::Thread { name, source })?;
        Ok(Self { name, result, taken: Cell::new(false), thread })
    }

    /// Takes the result if it is ready. Returns it once; an error if the thread panicked.
    pub(crate) fn take(&self) -> Option<Result<T>> {
        if self.taken.get() {
            return None;
        }
        let done = self.result.lock().take();
        self.taken.set(done.is_some());
        done
    }

    /// Looks at the result without taking it, if it is ready; an error if the thread panicked.
    pub(crate) fn peek<R>(&self, view: impl FnOnce(&T) -> R) -> Option<Result<R>> {
        let result = self.result.lock();
        match result.as_ref()? {
            Ok(done) => Some(Ok(view(done))),
            Err(_) => Some(Err(Error::Panic { name: self.name })),
        }
    }

    /// Waits for the thread's end. The caller has stopped it.
    pub(crate) fn join(self) {
        base::thread::join(self.thread);
    }
}

/// Publishes the thread's result when it is dropped, on a return and on a panic.
struct End<T> {
    name: &'static str,
    done: Option<T>,
    into: Arc<Mutex<Option<Result<T>>>>,
    waker: Waker,
}

impl<T> Drop for End<T> {
    fn drop(&mut self) {
        let done = self.done.take().ok_or(Error::Panic { name: self.name });
        *self.into.lock() = Some(done);
        self.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_panic_wakes_the_main_thread_and_is_an_error_for_peek_and_take() {
        let waker = Waker::new().unwrap();
        let worker = Worker::<u8>::start("worker", &waker, || panic!("as it should")).unwrap();
        assert!(waker.wait_until(Instant::now() + Duration::from_secs(60)));
        let seen = worker.peek(|_| ()).unwrap().unwrap_err();
        assert_eq!(seen.to_string(), "the thread worker panicked");
        assert!(matches!(worker.take(), Some(Err(Error::Panic { name: "worker" }))));
        assert!(worker.take().is_none());
        worker.join();
    }
}
