//! A value that threads wait for: a lock and a condition variable.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use base::event::Event;

use crate::deadline::Deadline;
use crate::error::Halt;

/// INVARIANT: no waiter misses a change: it checks the value before it sleeps, under the
/// same lock, and every change wakes all waiters. Events are for those who sleep elsewhere.
#[derive(Debug)]
pub(crate) struct Monitor<T> {
    state: Mutex<Watched<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Watched<T> {
    value: T,
    /// The number of waiters: without any, a change makes no system call.
    waiting: usize,
    /// Set by each change.
    events: Vec<Weak<Event>>,
}

impl<T> Monitor<T> {
    pub(crate) fn new(value: T) -> Self {
        let state = Watched { value, waiting: 0, events: Vec::new() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Sets `event` at each change from now on, while it lives.
    pub(crate) fn notify(&self, event: &Arc<Event>) {
        let mut state = lock(&self.state);
        state.events.retain(|event| event.strong_count() > 0);
        state.events.push(Arc::downgrade(event));
    }

    /// Changes the value and wakes all waiters.
    pub(crate) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut state = lock(&self.state);
        let result = change(&mut state.value);
        let is_awaited = state.waiting > 0;
        let events = state.events.clone();
        drop(state);
        events.iter().filter_map(Weak::upgrade).for_each(|event| event.set());
        if is_awaited {
            self.changed.notify_all();
        }
        result
    }

    /// Reads the value, or changes a part that has no waiters.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        look(&mut lock(&self.state).value)
    }

    /// Waits until `take` has a result. It is asked once even if the deadline has passed.
    pub(crate) fn wait<R>(
        &self,
        deadline: &Deadline,
        mut take: impl FnMut(&mut T) -> Option<R>,
    ) -> Result<R, Halt> {
        let mut state = lock(&self.state);
        loop {
            if let Some(result) = take(&mut state.value) {
                return Ok(result);
            }
            let left = deadline.left()?;
            state.waiting += 1;
            state = match left {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(left) => {
                    let woken = self.changed.wait_timeout(state, left);
                    woken.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.waiting -= 1;
        }
    }
}

/// Locks. A panic of another thread is no reason for one here: it ends its connections, and what
/// it left is only looked at by those who learn that.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    #[test]
    fn what_is_there_is_taken_though_the_deadline_has_passed() {
        let monitor = Monitor::new(Some(7));
        let taken = monitor.wait(&Deadline::new(Instant::now()), Option::take);
        assert_eq!(taken.unwrap(), 7);
    }

    #[test]
    fn a_deadline_that_has_passed_is_a_timeout() {
        let monitor = Monitor::new(None::<u8>);
        let taken = monitor.wait(&Deadline::new(Instant::now()), Option::take);
        assert!(matches!(taken, Err(Halt::TimedOut { .. })));
    }

    #[test]
    fn a_change_sets_the_events_that_live() {
        let monitor = Monitor::new(0);
        let (event, dropped) = (Arc::new(Event::new().unwrap()), Arc::new(Event::new().unwrap()));
        monitor.notify(&dropped);
        drop(dropped);
        monitor.notify(&event);
        assert_eq!(lock(&monitor.state).events.len(), 1);
        assert!(!event.is_set());
        monitor.update(|value| *value = 1);
        assert!(event.is_set());
    }

    #[test]
    fn a_change_wakes_who_waits_for_ever() {
        let monitor = Monitor::new(None);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| monitor.wait(&Deadline::new(None), Option::take));
            monitor.update(|value| *value = Some(7));
            assert_eq!(waiter.join().unwrap().unwrap(), 7);
        });
    }
}
