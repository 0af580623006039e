//! Time limits of the CLI: for tools that do not return, and for a CLI that does not exit after its
//! result. Pure rules: the caller passes the current time.

use std::time::{Duration, Instant};

use crate::event::{CliResult, Head};

/// Network tools that were seen to hang.
const LIMITED_TOOLS: [&str; 2] = ["WebSearch", "WebFetch"];

/// The most concurrent tool calls that are tracked. A sane CLI makes fewer.
const MAX_TOOL_CALLS: usize = 1000;

/// The limits of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long a limited tool may run.
    pub(crate) tool: Duration,
    /// How long the CLI may write nothing after its result.
    pub(crate) silence: Duration,
    /// How long the CLI may run after its result.
    pub(crate) exit: Duration,
    /// The time between SIGTERM and SIGKILL.
    pub(crate) kill: Duration,
    /// How long a cancelled run may take to end.
    pub(crate) cancel: Duration,
}

/// The phases of a cancelled run. Each number is the phase's end, in ninths of [`Limits::cancel`]. The
/// last ninth is for the runner, which reports the outcome to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The CLI has ended.
    Cli = 1,
    /// Its events have arrived.
    Delivery = 3,
    /// The checkpoint is made.
    Checkpoint = 6,
    /// The last report is sent.
    Report = 8,
}

impl Limits {
    /// When a phase has to end, counted from the cancellation.
    pub(crate) fn phase_end(&self, phase: Phase) -> Duration {
        self.cancel * phase as u32 / 9
    }
}

/// The limit that the CLI has exceeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The tool of this name did not return.
    Tool(String),
    /// The CLI did not exit after its result.
    Exit,
}

/// Tracks the CLI's tool calls, result and output against the limits.
#[derive(Debug)]
pub(crate) struct LimitTracker {
    limits: Limits,
    tools: Vec<(String, String, Instant)>,
    result: Option<(CliResult, Instant)>,
    last_output: Instant,
}

impl LimitTracker {
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, tools: Vec::new(), result: None, last_output: now }
    }

    /// Records that the CLI wrote output.
    pub(crate) fn output_seen(&mut self, now: Instant) {
        self.last_output = now;
    }

    /// Extends all limits by a pause in which the CLI's output was not read.
    pub(crate) fn extend(&mut self, pause: Duration) {
        self.tools.iter_mut().for_each(|(.., at)| *at += pause);
        self.last_output += pause;
        if let Some((_, since)) = &mut self.result {
            *since += pause;
        }
    }

    /// Records the tool calls and the result of an event.
    pub(crate) fn observe(&mut self, head: &Head, now: Instant) {
        self.tools.retain(|(id, ..)| !head.returns.contains(id));
        let is_limited = |name: &str| LIMITED_TOOLS.contains(&name);
        for (id, name) in head.calls.iter().filter(|(_, name)| is_limited(name)) {
            if self.tools.len() < MAX_TOOL_CALLS {
                self.tools.push((id.clone(), name.clone(), now + self.limits.tool));
            }
        }
        if let Some(result) = head.result() {
            // After its result the CLI waits for no tool.
            self.tools.clear();
            let since = self.result.as_ref().map_or(now, |(_, since)| *since);
            self.result = Some((result, since));
        }
    }

    /// The last result.
    pub(crate) fn result(&self) -> Option<&CliResult> {
        self.result.as_ref().map(|(result, _)| result)
    }

    /// The next limit: when it passes, and which it is.
    pub(crate) fn next(&self) -> Option<(Instant, Overdue)> {
        let tool = self.tools.iter().min_by_key(|(.., at)| *at);
        let tool = tool.map(|(_, name, at)| (*at, Overdue::Tool(name.clone())));
        let exit = self.result.as_ref().map(|(_, since)| {
            let silent = self.last_output.max(*since) + self.limits.silence;
            (silent.min(*since + self.limits.exit), Overdue::Exit)
        });
        tool.into_iter().chain(exit).min_by_key(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Event;
    use mask::Masker;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits {
        tool: Duration::from_secs(300),
        silence: Duration::from_secs(10),
        exit: Duration::from_secs(120),
        kill: Duration::from_secs(5),
        cancel: Duration::from_secs(90),
    };

    fn head(line: &str) -> Head {
        Event::read(line.as_bytes(), &Masker::default()).unwrap().head
    }

    fn call(id: &str, name: &str) -> Head {
        head(&format!(
            r#"{{"type":"assistant","message":{{"content":[{{"type":"tool_use","id":"{id}","name":"{name}"}}]}}}}"#
        ))
    }

    fn result_of(id: &str) -> Head {
        head(&format!(
            r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"{id}"}}]}}}}"#
        ))
    }

    #[test]
    fn a_tool_that_does_not_return_is_overdue_and_one_that_does_is_not() {
        let now = Instant::now();
        let mut tracker = LimitTracker::new(LIMITS, now);
        tracker.observe(&call("a", "WebFetch"), now);
        tracker.observe(&call("b", "WebSearch"), now + SECOND);
        assert_eq!(tracker.next(), Some((now + 300 * SECOND, Overdue::Tool("WebFetch".into()))));
        tracker.observe(&result_of("a"), now + 2 * SECOND);
        assert_eq!(tracker.next(), Some((now + 301 * SECOND, Overdue::Tool("WebSearch".into()))));
        tracker.observe(&result_of("b"), now + 3 * SECOND);
        assert_eq!(tracker.next(), None);
    }

    #[test]
    fn a_pause_in_reading_extends_all_limits() {
        let now = Instant::now();
        let mut tracker = LimitTracker::new(LIMITS, now);
        tracker.observe(&call("a", "WebFetch"), now);
        tracker.extend(1000 * SECOND);
        assert_eq!(tracker.next().unwrap().0, now + 1300 * SECOND);
        tracker.observe(&head(r#"{"type":"result","is_error":false}"#), now + 1000 * SECOND);
        tracker.extend(500 * SECOND);
        assert_eq!(tracker.next(), Some((now + 1510 * SECOND, Overdue::Exit)));
    }

    #[test]
    fn tools_that_do_not_use_the_network_have_no_limit() {
        let now = Instant::now();
        let mut tracker = LimitTracker::new(LIMITS, now);
        tracker.observe(&call("a", "Bash"), now);
        assert_eq!(tracker.next(), None);
    }

    #[test]
    fn after_its_result_the_cli_may_neither_be_silent_nor_write_for_long() {
        let now = Instant::now();
        let mut tracker = LimitTracker::new(LIMITS, now);
        tracker.observe(&call("a", "WebFetch"), now);
        tracker.observe(&head(r#"{"type":"result","is_error":false}"#), now);
        assert_eq!(tracker.next(), Some((now + 10 * SECOND, Overdue::Exit)));
        tracker.output_seen(now + 9 * SECOND);
        assert_eq!(tracker.next(), Some((now + 19 * SECOND, Overdue::Exit)));
        tracker.output_seen(now + 119 * SECOND);
        assert_eq!(tracker.next(), Some((now + 120 * SECOND, Overdue::Exit)));
    }

    #[test]
    fn each_phase_of_a_cancelled_run_ends_at_its_share_of_the_time() {
        let until = |part| LIMITS.phase_end(part).as_secs();
        let parts = [Phase::Cli, Phase::Delivery, Phase::Checkpoint, Phase::Report].map(until);
        assert_eq!(parts, [10, 30, 60, 80]);
    }
}
