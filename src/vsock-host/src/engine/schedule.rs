//! When the reactor turns to a socket without an event: at a deadline, or for another turn.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use mio::Token;

/// The longest sleep: mio counts milliseconds in 32 bits.
const SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// INVARIANT: if it is empty, then the thread sleeps for ever.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    timers: BTreeSet<(Instant, Token)>,
    /// Sockets that may have more to read than fit in their turn.
    unfinished: BTreeSet<Token>,
}

impl Schedule {
    pub(crate) fn set_timer(&mut self, deadline: Instant, token: Token) {
        self.timers.insert((deadline, token));
    }

    pub(crate) fn cancel_timer(&mut self, deadline: Instant, token: Token) {
        self.timers.remove(&(deadline, token));
    }

    /// Gives a socket another turn.
    pub(crate) fn add_turn(&mut self, token: Token) {
        self.unfinished.insert(token);
    }

    pub(crate) fn add_turns(&mut self, tokens: impl IntoIterator<Item = Token>) {
        self.unfinished.extend(tokens);
    }

    /// Takes all turns that are due.
    pub(crate) fn take_turns(&mut self) -> BTreeSet<Token> {
        std::mem::take(&mut self.unfinished)
    }

    /// Takes the earliest timer that has expired by `now`.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Option<Token> {
        let (deadline, _) = self.timers.first()?;
        if *deadline > now {
            return None;
        }
        self.timers.pop_first().map(|(_, token)| token)
    }

    /// How long the thread may sleep; `None` for ever.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        if !self.unfinished.is_empty() {
            return Some(Duration::ZERO);
        }
        let (next, _) = self.timers.first()?;
        Some(next.saturating_duration_since(Instant::now()).min(SLEEP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_schedule_sleeps_for_ever() {
        assert_eq!(Schedule::default().timeout(), None);
    }

    #[test]
    fn a_turn_forbids_sleep_until_it_is_taken() {
        let mut schedule = Schedule::default();
        schedule.add_turn(Token(7));
        assert_eq!(schedule.timeout(), Some(Duration::ZERO));
        assert_eq!(schedule.take_turns(), BTreeSet::from([Token(7)]));
        assert_eq!(schedule.timeout(), None);
    }

    #[test]
    fn timers_expire_in_order_and_once() {
        let mut schedule = Schedule::default();
        let start = Instant::now();
        let second = start + Duration::from_secs(1);
        schedule.set_timer(second, Token(1));
        schedule.set_timer(start, Token(2));
        schedule.set_timer(start, Token(3));
        schedule.cancel_timer(start, Token(3));
        assert_eq!(schedule.take_expired(start), Some(Token(2)));
        assert_eq!(schedule.take_expired(start), None);
        assert_eq!(schedule.take_expired(second), Some(Token(1)));
        assert_eq!(schedule.take_expired(second), None);
    }
}
