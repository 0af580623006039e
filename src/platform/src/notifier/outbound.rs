//! Topics that other platforms are notified of, until a thread has sent them.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::time::Instant;

use base::deadline::poll_until;
use base::event::Event;
use base::sync::Mutex;
use nix::poll::{PollFd, PollFlags};

use super::Topic;

/// The most topics that wait to be sent. While the database is away, others ask it themselves.
const MOST: usize = 10_000;

/// What is to be sent.
pub(crate) struct Outbound {
    topics: Mutex<HashSet<Topic>>,
    event: Event,
}

impl Outbound {
    pub(super) fn new() -> nix::Result<Self> {
        Ok(Self { topics: Mutex::default(), event: Event::new()? })
    }

    pub(super) fn add(&self, topic: Topic) {
        let mut topics = self.topics.lock();
        if topics.len() < MOST {
            topics.insert(topic);
        }
        drop(topics);
        self.event.set();
    }

    /// What is to be sent now.
    pub(crate) fn take(&self) -> Vec<Topic> {
        self.event.clear();
        self.topics.lock().drain().collect()
    }

    /// Set when there is something to be sent, and at the stop.
    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    /// Drops what cannot be sent until the deadline or the stop.
    pub(crate) fn wait(&self, deadline: Instant) {
        self.take();
        // After an error the caller looks at its deadlines anew.
        let _ =
            poll_until(&mut [PollFd::new(self.event.as_fd(), PollFlags::POLLIN)], Some(deadline));
    }
}
