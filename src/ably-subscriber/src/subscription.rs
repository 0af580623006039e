//! The handle of a subscription.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvError, RecvTimeoutError};

use crate::config::Config;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::queue::Queue;
use crate::signal::Signal;
use crate::worker::Worker;

/// Owns the thread `ably`, which ends with [`Subscription::close`] or when this is dropped.
#[derive(Debug)]
pub struct Subscription {
    events: Receiver<Event>,
    signal: Arc<Signal>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// Starts a subscription, and returns at once. Everything else, the first connection included, is reported
/// by events.
pub fn subscribe(config: Config) -> Result<Subscription> {
    let failed = |source| Error::Start { source };
    let signal = Signal::new().map_err(failed)?;
    let (queue, events) = Queue::new(config.max_events);
    let worker = Worker::new(config, Arc::clone(&signal), queue);
    let thread =
        thread::Builder::new().name("ably".into()).spawn(move || worker.run()).map_err(failed)?;
    Ok(Subscription { events, signal, thread: Some(thread) })
}

impl Subscription {
    /// Waits for the next event. An error means that there are no more events.
    pub fn recv(&self) -> std::result::Result<Event, RecvError> {
        self.events.recv()
    }

    /// Waits for the next event, but no longer than `timeout`.
    pub fn recv_timeout(&self, timeout: Duration) -> std::result::Result<Event, RecvTimeoutError> {
        self.events.recv_timeout(timeout)
    }

    /// Iterates over all events.
    pub fn iter(&self) -> crossbeam_channel::Iter<'_, Event> {
        self.events.iter()
    }

    /// The receiver of the events, for `select!`.
    pub fn receiver(&self) -> &Receiver<Event> {
        &self.events
    }

    /// Ends the subscription without waiting for the server. A running callback or the system's resolver
    /// can delay it by at most 5 s each.
    pub fn close(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.signal.stop();
        thread.join().unwrap_or(Err(Error::Panicked))
    }
}

impl<'a> IntoIterator for &'a Subscription {
    type Item = Event;
    type IntoIter = crossbeam_channel::Iter<'a, Event>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            log::error!("a subscription ended in an error; thread=ably error={error}");
        }
    }
}
