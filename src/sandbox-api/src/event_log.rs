//! What happened to a sandbox: its pauses, its network, and the processes that calls started. It is kept in
//! memory as long as the sandbox, without the output of processes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;

use base::sync::Mutex;
use log::Level;

use crate::clock::Clock;

/// The most events that are kept.
const MOST: usize = 1000;

/// The most bytes of a field's value.
const LONGEST: usize = 1024;

/// The field with the command line of a process, which may have a secret in it.
pub(crate) const COMMAND: &str = "command";

/// The events of a sandbox.
pub struct EventLog {
    clock: Arc<dyn Clock>,
    events: Mutex<VecDeque<LoggedEvent>>,
}

/// An event of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEvent {
    /// When.
    pub at: SystemTime,
    /// Whether it is as it should be.
    pub level: Level,
    /// `sandbox` or `process`.
    pub logger: &'static str,
    /// What happened.
    pub message: &'static str,
    /// The details.
    pub fields: BTreeMap<&'static str, String>,
}

impl EventLog {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, events: Mutex::default() }
    }

    /// An event of the sandbox itself.
    pub(crate) fn record_sandbox(&self, message: &'static str) {
        self.record(Level::Info, "sandbox", message, &[]);
    }

    /// An event of a process.
    pub(crate) fn record_process(
        &self,
        level: Level,
        message: &'static str,
        fields: &[(&'static str, &str)],
    ) {
        self.record(level, "process", message, fields);
    }

    /// All events, the oldest first.
    pub fn all(&self) -> Vec<LoggedEvent> {
        self.events.lock().iter().cloned().collect()
    }

    fn record(
        &self,
        level: Level,
        logger: &'static str,
        message: &'static str,
        fields: &[(&'static str, &str)],
    ) {
        let fields = fields.iter().map(|(name, value)| (*name, shortened(value))).collect();
        let event = LoggedEvent { at: self.clock.wall(), level, logger, message, fields };
        let mut events = self.events.lock();
        if events.len() >= MOST {
            events.pop_front();
        }
        events.push_back(event);
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= LONGEST {
        return text.to_owned();
    }
    let start = (0..=LONGEST).rev().find_map(|end| text.get(..end));
    format!("{}…", start.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    #[test]
    fn the_oldest_event_goes_when_there_are_too_many() {
        let log = EventLog::new(ManualClock::new());
        log.record_sandbox("first");
        for _ in 0..MOST {
            log.record_sandbox("next");
        }
        let events = log.all();
        assert_eq!(events.len(), MOST);
        assert_eq!(events[0].message, "next");
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        let log = EventLog::new(ManualClock::new());
        let command = format!("{}é", "x".repeat(LONGEST - 1));
        log.record_process(Level::Info, "process started", &[(COMMAND, &command)]);
        let expected = format!("{}…", "x".repeat(LONGEST - 1));
        assert_eq!(log.all()[0].fields[COMMAND], expected);
    }
}
