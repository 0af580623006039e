//! Events on their way to whoever subscribed: bounded, and honest about what did not fit.
//!
//! A thread that reads a socket cannot wait for a slow taker. What does not fit is owed: of messages
//! only that there were some ([`Gap::Overflow`]), of states only the last. While something is owed, no
//! message passes it.

use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::event::{Event, Gap};

/// How soon to look for room again. A channel does not tell who sends that there is some.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Queue {
    sender: Sender<Event>,
    gap: Option<Gap>,
    state: Option<Event>,
    look_at: Option<Instant>,
    /// Which of the two was said last.
    is_connected: Option<bool>,
}

impl Queue {
    pub(crate) fn new(most: usize) -> (Self, Receiver<Event>) {
        let (sender, receiver) = bounded(most.max(1));
        (Self { sender, gap: None, state: None, look_at: None, is_connected: None }, receiver)
    }

    /// The channel is attached; said once until it is not any more.
    pub(crate) fn connected(&mut self) {
        if self.is_connected != Some(true) {
            self.is_connected = Some(true);
            self.push(Event::Connected);
        }
    }

    /// The channel is not attached; said once until it is again.
    pub(crate) fn disconnected(&mut self, reason: String) {
        if self.is_connected != Some(false) {
            self.is_connected = Some(false);
            self.push(Event::Disconnected { reason });
        }
    }

    pub(crate) fn push(&mut self, event: Event) {
        self.settle();
        if self.owes_nothing() {
            self.send(event);
        } else {
            self.owe(event);
        }
        self.plan();
    }

    /// Sends what is owed as far as there is room.
    pub(crate) fn settle(&mut self) {
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

    pub(crate) fn owes_nothing(&self) -> bool {
        self.gap.is_none() && self.state.is_none()
    }

    /// When to [`settle`](Self::settle), if there is anything.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.look_at
    }

    fn send(&mut self, event: Event) {
        match self.sender.try_send(event) {
            // Who does not take events any more misses none.
            Ok(()) | Err(TrySendError::Disconnected(_)) => {}
            Err(TrySendError::Full(event)) => self.owe(event),
        }
    }

    fn owe(&mut self, event: Event) {
        match event {
            Event::Message(_) => self.gap = self.gap.or(Some(Gap::Overflow)),
            Event::Gap(gap) => self.gap = self.gap.or(Some(gap)),
            state => self.state = Some(state),
        }
    }

    fn plan(&mut self) {
        self.look_at = (!self.owes_nothing()).then(|| Instant::now() + LOOK_AGAIN);
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
    fn events_come_in_order() {
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
    fn a_gap_comes_even_if_nothing_follows() {
        let (mut queue, receiver) = queue_of(&[message("a"), message("b")], 1);
        assert!(queue.deadline().is_some());
        assert_eq!(receiver.try_recv(), Ok(message("a")));

        queue.settle();

        assert_eq!(receiver.try_recv(), Ok(Event::Gap(Gap::Overflow)));
        assert!(queue.owes_nothing() && queue.deadline().is_none());
    }

    #[test]
    fn of_states_that_do_not_fit_the_last_comes() {
        let (mut queue, receiver) =
            queue_of(&[message("a"), lost(), Event::Connected, lost(), Event::Connected], 1);
        assert_eq!(receiver.try_recv(), Ok(message("a")));

        queue.settle();

        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [Event::Connected]);
    }

    #[test]
    fn a_state_is_told_once() {
        let (mut queue, receiver) = Queue::new(9);
        queue.disconnected("a".into());
        queue.disconnected("b".into());
        queue.connected();
        queue.connected();

        let events: Vec<_> = receiver.try_iter().collect();

        assert_eq!(events, [Event::Disconnected { reason: "a".into() }, Event::Connected]);
    }

    #[test]
    fn a_message_after_a_state_that_is_owed_does_not_pass_it() {
        let (mut queue, receiver) = queue_of(&[message("a"), lost(), message("b")], 2);
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [message("a"), lost()]);

        queue.settle();

        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [Event::Gap(Gap::Overflow)]);
    }
}
