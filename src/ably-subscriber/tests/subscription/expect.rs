//! What a test expects to happen next.

use std::time::Duration;

use ably_subscriber::{Config, Event, Failure, Gap, Message, Subscription, subscribe};

/// So long that no machine is too busy.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) struct Subscriber(pub(crate) Subscription);

impl Subscriber {
    pub(crate) fn start(config: Config) -> Self {
        Self(subscribe(config).unwrap())
    }

    /// One that is connected.
    pub(crate) fn connected(config: Config) -> Self {
        let subscriber = Self::start(config);
        subscriber.expect_connected();
        subscriber
    }

    pub(crate) fn next(&self) -> Event {
        self.0.recv_timeout(LONG).unwrap()
    }

    pub(crate) fn expect_connected(&self) {
        assert_eq!(self.next(), Event::Connected);
    }

    /// Why it is not connected any more.
    pub(crate) fn expect_disconnected(&self) -> String {
        let event = self.next();
        let Event::Disconnected { reason } = event else { panic!("{event:?}") };
        reason
    }

    pub(crate) fn expect_gap(&self, gap: Gap) {
        assert_eq!(self.next(), Event::Gap(gap));
    }

    pub(crate) fn expect_message(&self) -> Message {
        let event = self.next();
        let Event::Message(message) = event else { panic!("{event:?}") };
        message
    }

    /// A message with that name.
    pub(crate) fn expect(&self, name: &str) {
        assert_eq!(self.expect_message().name.as_deref(), Some(name));
    }

    /// The last event, before which nothing but a disconnection may come.
    pub(crate) fn expect_failed(&self) -> Failure {
        let event = self.next();
        let Event::Failed(failure) = event else { panic!("{event:?}") };
        self.0.recv_timeout(LONG).unwrap_err();
        failure
    }
}
