//! Watched folders whose changes are asked for, each by a name.
//!
//! A watcher has no thread: its changes wait in the sandbox until a call takes them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use base::event::Event as Wake;
use base::sync::Mutex;
use files_proto::{Code, Event};

use super::error::{Error, Result, failed};
use super::watch::{Watch, WatchItem};

/// The most watchers of a sandbox.
const MOST: usize = 64;

/// The most events of a call; more come with the next one.
const MOST_EVENTS: usize = 16_384;

/// The watchers of a sandbox.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<Slots>);

#[derive(Default)]
struct Slots {
    made: u64,
    slots: HashMap<String, Slot>,
}

enum Slot {
    Idle(Watcher),
    /// A call uses it.
    Busy,
}

struct Watcher {
    /// `None` once the folder is gone.
    watch: Option<Watch>,
    /// How many answers to [`Watch`]'s questions are still to come.
    owed: usize,
}

impl Watchers {
    /// Adds a watch and returns its name.
    pub(crate) fn add(&self, watch: Watch) -> Result<String> {
        let mut slots = self.0.lock();
        if slots.slots.len() >= MOST {
            let message = format!("the sandbox has {MOST} watchers, which is the most");
            return Err(failed(Code::TooMany, message));
        }
        slots.made += 1;
        let name = format!("w{}", slots.made);
        let watcher = Watcher { watch: Some(watch), owed: 0 };
        slots.slots.insert(name.clone(), Slot::Idle(watcher));
        Ok(name)
    }

    /// The changes since the last call. Fails when `closed` is set.
    pub(crate) fn events(
        &self,
        name: &str,
        closed: &Arc<Wake>,
        deadline: Instant,
    ) -> Result<Vec<Event>> {
        let mut watcher = self.take(name)?;
        let events = watcher.events(closed, deadline);
        let is_broken = match &events {
            Ok(_) => false,
            Err(error) => !is_temporary(error),
        };
        let mut slots = self.0.lock();
        if is_broken {
            slots.slots.remove(name);
        } else if let Some(slot) = slots.slots.get_mut(name) {
            *slot = Slot::Idle(watcher);
            return events;
        }
        drop(slots);
        events
    }

    /// Ends a watcher; `false` if there is none of this name.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let removed = self.0.lock().slots.remove(name);
        removed.is_some()
    }

    fn take(&self, name: &str) -> Result<Watcher> {
        let mut slots = self.0.lock();
        let slot = slots.slots.get_mut(name);
        match slot.map(|slot| std::mem::replace(slot, Slot::Busy)) {
            Some(Slot::Idle(watcher)) => Ok(watcher),
            Some(Slot::Busy) => {
                Err(failed(Code::Busy, format!("another call uses the watcher {name}")))
            }
            None => Err(failed(Code::NotFound, format!("watcher with id {name} not found"))),
        }
    }
}

impl Watcher {
    fn events(&mut self, closed: &Arc<Wake>, deadline: Instant) -> Result<Vec<Event>> {
        let Some(watch) = &mut self.watch else { return Ok(Vec::new()) };
        watch.until(Arc::clone(closed));
        watch.handle().request_sync(deadline)?;
        self.owed += 1;
        let mut events = Vec::new();
        while self.owed > 0 && events.len() < MOST_EVENTS {
            match watch.next(Some(deadline)) {
                Ok(WatchItem::Event(event)) => events.push(*event),
                Ok(WatchItem::Synced) => self.owed -= 1,
                Err(error) if error.code() == Some(Code::Gone) => {
                    self.watch = None;
                    return Ok(events);
                }
                Err(error) if is_temporary(&error) && !events.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        Ok(events)
    }
}

fn is_temporary(error: &Error) -> bool {
    matches!(error, Error::Closed | Error::Sandbox(sandbox::Error::TimedOut { .. }))
}
