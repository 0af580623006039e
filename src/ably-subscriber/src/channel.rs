//! The channel of a subscription: its state and its last delivered position.
//!
//! ```text
//!             attach              ATTACHED
//!   Disconnected ────────▶ Attaching ──────────▶ Attached ──┐ ATTACHED
//!       ▲                │  ▲                  │    ▲   │ unasked
//!       │        DETACHED│  │after a while     │    └───┘
//!       │                ▼  │                  │
//!       │               Detached ◀─────────────┘ DETACHED: the while is none
//!       └── from anywhere, when the connection is lost
//! ```
//!
//! A second DETACHED right after the first waits for a moment, too.
//!
//! INVARIANT: `serial` is that of the last delivered frame. Messages that come before ATTACHED are
//! dropped and leave it as it is, since the server sends them again from there.

use std::time::Instant;

use crate::config::{Config, Timing};
use crate::error::{ConnectionError, chain};
use crate::event::{Event, Failure, Gap};
use crate::frame::{self, Frame, MODE_SUBSCRIBE, RESUMED};
use crate::message::messages;
use crate::queue::Queue;
use crate::recent::Recent;

/// Ably's code for what a token does not allow.
const NOT_ALLOWED: u32 = 40160;

#[derive(Debug)]
pub(crate) struct Channel {
    name: String,
    params: Vec<(String, String)>,
    timing: Timing,
    serial: Option<String>,
    was_attached: bool,
    recent: Recent,
    /// When it was detached last while it was attached.
    detached: Option<Instant>,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Disconnected,
    Attaching { since: Instant },
    Attached,
    Detached { until: Instant },
}

impl Channel {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            name: config.channel.clone(),
            params: config.params.clone(),
            timing: config.timing.clone(),
            serial: None,
            was_attached: false,
            recent: Recent::default(),
            detached: None,
            state: State::Disconnected,
        }
    }

    /// The ATTACH frame, from the last delivered position.
    pub(crate) fn attach(&mut self, now: Instant) -> Vec<u8> {
        self.state = State::Attaching { since: now };
        frame::attach(&self.name, &self.params, self.serial.as_deref(), self.was_attached)
    }

    /// The connection was lost.
    pub(crate) fn disconnect(&mut self) {
        self.state = State::Disconnected;
    }

    /// Skips what follows the last frame: it cannot be delivered, even if it is resent.
    pub(crate) fn skip(&mut self, gap: Gap, queue: &mut Queue) {
        self.serial = None;
        queue.push(Event::Gap(gap));
    }

    pub(crate) fn is_named(&self, name: Option<&str>) -> bool {
        name == Some(self.name.as_str())
    }

    pub(crate) fn is_attached(&self) -> bool {
        matches!(self.state, State::Attached)
    }

    pub(crate) fn on_attached(
        &mut self,
        frame: &Frame<'_>,
        queue: &mut Queue,
    ) -> Result<(), Failure> {
        if !frame.has(MODE_SUBSCRIBE) {
            let text = "the channel was attached without the capability to subscribe".to_owned();
            return Err(Failure::new(NOT_ALLOWED, text, &self.name));
        }
        let is_resumed = frame.has(RESUMED);
        // After a resume the messages between our serial and the frame's are still to come.
        if !is_resumed || self.serial.is_none() {
            self.serial = frame.serial.map(str::to_owned);
        }
        self.state = State::Attached;
        queue.connected();
        if self.was_attached && !is_resumed {
            queue.push(Event::Gap(Gap::NotResumed));
        }
        self.was_attached = true;
        Ok(())
    }

    pub(crate) fn on_messages(&mut self, frame: &Frame<'_>, queue: &mut Queue) {
        if !self.is_attached() {
            return;
        }
        for message in messages(frame) {
            match message {
                Ok(message) => {
                    if message.id.as_deref().is_none_or(|id| self.recent.is_new(id)) {
                        queue.push(Event::Message(message));
                    }
                }
                Err(_) => queue.push(Event::Gap(Gap::Unreadable)),
            }
        }
        if let Some(serial) = frame.serial {
            self.serial = Some(serial.to_owned());
        }
    }

    pub(crate) fn on_detached(&mut self, loss: &ConnectionError, now: Instant, queue: &mut Queue) {
        let until = match self.state {
            State::Attached => {
                // At once, unless that was just done.
                let wait = self.timing.first_wait;
                let is_again = self.detached.is_some_and(|last| now - last < wait);
                self.detached = Some(now);
                if is_again { now + wait } else { now }
            }
            State::Attaching { .. } => now + self.timing.detached_wait,
            State::Disconnected | State::Detached { .. } => return,
        };
        self.state = State::Detached { until };
        queue.disconnected(chain(loss));
    }

    /// The frame that is due now, if any.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<Option<Vec<u8>>, ConnectionError> {
        match self.state {
            State::Attaching { since } if now >= since + self.timing.attach => {
                Err(ConnectionError::NotAttached { after: now - since })
            }
            State::Detached { until } if now >= until => Ok(Some(self.attach(now))),
            _ => Ok(None),
        }
    }

    /// When to [`tick`](Self::tick).
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Attaching { since } => Some(since + self.timing.attach),
            State::Detached { until } => Some(until),
            State::Disconnected | State::Attached => None,
        }
    }
}
