//! The bounded queue of events to the subscriber.
//!
//! The reading thread does not wait for a slow subscriber. When the queue is full, a dropped message
//! becomes a pending [`Gap::Overflow`], and the last state stays pending. No message overtakes what is
//! pending.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::event::{Event, Gap};

/// The interval between attempts to send what is pending: a full channel does not report free space.
const RETRY_INTERVAL: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Queue {
    sender: Sender<Event>,
    gap: Option<Gap>,
    state: Option<Event>,
    retry_at: Option<Instant>,
    /// The last reported state of the channel.
    is_connected: Option<bool>,
}

impl Queue {
    pub(crate) fn new(most: usize) -> (Self, Receiver<Event>) {
        let (sender, receiver) = bounded(most.max(1));
        (Self { sender, gap: None, state: None, retry_at: None, is_connected: None }, receiver)
    }

    /// Reports that the channel is attached, once until it is detached.
    pub(crate) fn connected(&mut self) {
        if self.is_connected != Some(true) {
            self.is_connected = Some(true);
            self.push(Event::Connected);
        }
    }

    /// Reports that the channel is not attached, once until it is attached.
    pub(crate) fn disconnected(&mut self, reason: String) {
        if self.is_connected != Some(false) {
            self.is_connected = Some(false);
            self.push(Event::Disconnected { reason });
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.flush_pending();
        if self.is_flushed() {
            self.send(event);
        } else {
            self.defer(event);
        }
        self.plan();
    }

    /// Sends what is pending, as far as there is room.
    pub(crate) fn flush_pending(&mut self) {
        if let Some(gap) = self.gap.take() {
            self.send(Event::Gap(gap));
        }
        if self.gap.is_none()
            && let Some(state) = self.state.take()
        {
            self.send(state);
        }
        self.plan();
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.gap.is_none() && self.state.is_none()
    }

    /// When to call [`flush_pending`](Self::flush_pending), if something is pending.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.retry_at
    }

    fn send(&mut self, event: Event) {
        match self.sender.try_send(event) {
            // The subscriber is gone.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(event)) => self.defer(event),
        }
    }

    fn defer(&mut self, event: Event) {
        match event {
            Event::Message(_) => self.gap = self.gap.or(Some(Gap::Overflow)),
            Event::Gap(gap) => self.gap = self.gap.or(Some(gap)),
            state => self.state = Some(state),
        }
    }

    fn plan(&mut self) {
        self.retry_at = (!self.is_flushed()).then(|| Instant::now() + RETRY_INTERVAL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;

    fn message(name: &str) -> Event {
        Event::Message(Message { name: Some(name.into()), ..Message::default() })
    }

    fn lost() -> Event {
        Event::Disconnected { reason: String::new() }
    }

    fn queue_of(events: &[Event], most: usize) -> (Queue, Receiver<Event>) {
        let (mut queue, receiver) = Queue::new(most);
        events.iter().for_each(|event| queue.push(event.clone()));
        (queue, receiver)
    }

    #[test]
    fn events_are_delivered_in_order() {
        let (queue, receiver) = queue_of(&[Event::Connected, message("a"), lost()], 3);

        assert_eq!(
            receiver.try_iter().collect::<Vec<_>>(),
            [Event::Connected, message("a"), lost()]
        );
        assert_eq!(queue.deadline(), None);
    }

    #[test]
    fn messages_that_do_not_fit_leave_a_gap_in_their_place() {
        let (mut queue, receiver) = queue_of(&[message("a"), message("b"), message("c")], 1);
        assert_eq!(receiver.try_recv(), Ok(message("a")));
        queue.push(message("d"));
        assert_eq!(receiver.try_recv(), Ok(Event::Gap(Gap::Overflow)));
        queue.push(message("e"));

        // d was lost, too, and after the gap: so there is another one before e.
        assert_eq!(receiver.try_recv(), Ok(Event::Gap(Gap::Overflow)));
    }

    #[test]
    fn a_gap_is_reported_even_if_no_event_follows() {
        let (mut queue, receiver) = queue_of(&[message("a"), message("b")], 1);
        assert!(queue.deadline().is_some());
        assert_eq!(receiver.try_recv(), Ok(message("a")));

        queue.flush_pending();

        assert_eq!(receiver.try_recv(), Ok(Event::Gap(Gap::Overflow)));
        assert!(queue.is_flushed() && queue.deadline().is_none());
    }

    #[test]
    fn the_last_of_several_pending_states_is_reported() {
        let (mut queue, receiver) =
            queue_of(&[message("a"), lost(), Event::Connected, lost(), Event::Connected], 1);
        assert_eq!(receiver.try_recv(), Ok(message("a")));

        queue.flush_pending();

        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [Event::Connected]);
    }

    #[test]
    fn a_state_is_reported_once() {
        let (mut queue, receiver) = Queue::new(9);
        queue.disconnected("a".into());
        queue.disconnected("b".into());
        queue.connected();
        queue.connected();

        let events: Vec<_> = receiver.try_iter().collect();

        assert_eq!(events, [Event::Disconnected { reason: "a".into() }, Event::Connected]);
    }

    #[test]
    fn a_message_does_not_overtake_a_pending_state() {
        let (mut queue, receiver) = queue_of(&[message("a"), lost(), message("b")], 2);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [message("a"), lost()]);

        queue.flush_pending();

        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [Event::Gap(Gap::Overflow)]);
    }
}
