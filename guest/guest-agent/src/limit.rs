//! When the CLI has to be ended: a tool that does not return, or a CLI that does not go though it
//! is done. Only the rules; what time it is, is said by the caller.

use std::time::{Duration, Instant};

use crate::event::{Head, Verdict};

/// The tools that reach out to the network and were seen to hang.
const WATCHED: [&str; 2] = ["WebSearch", "WebFetch"];

/// The most tools that are watched at once: a CLI that calls more is not sane.
const MOST_TOOLS: usize = 1000;

/// The limits of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// For a watched tool to return.
    pub(crate) tool: Duration,
    /// Of silence after the verdict.
    pub(crate) silence: Duration,
    /// For all after the verdict.
    pub(crate) farewell: Duration,
    /// Between SIGTERM and SIGKILL.
    pub(crate) kill: Duration,
    /// For the whole run to end once it was asked to.
    pub(crate) cancel: Duration,
}

/// The ninths of [`Limits::cancel`] by whose end each part of a cancelled run is over. The last is for
/// the outcome's way to the platform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The CLI has ended.
    Cli = 1,
    /// Its events have arrived.
    Delivery = 3,
    /// What it leaves is kept.
    Checkpoint = 6,
    /// The last report is sent.
    Report = 8,
}

impl Limits {
    /// How long after it was asked to end a run may be in this part.
    pub(crate) fn until(&self, part: Part) -> Duration {
        self.cancel * part as u32 / 9
    }
}

/// Why the CLI has to be ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// A tool of this name did not return.
    Tool(String),
    /// It said that it is done, and stayed.
    Farewell,
}

/// What is known of the CLI's doings.
#[derive(Debug)]
pub(crate) struct Watch {
    limits: Limits,
    tools: Vec<(String, String, Instant)>,
    verdict: Option<(Verdict, Instant)>,
    last_sign: Instant,
}

impl Watch {
    pub(crate) fn new(limits: Limits, now: Instant) -> Self {
        Self { limits, tools: Vec::new(), verdict: None, last_sign: now }
    }

    /// The CLI wrote something.
    pub(crate) fn sign_of_life(&mut self, now: Instant) {
        self.last_sign = now;
    }

    /// For so long nobody listened: nothing that the CLI may have said meanwhile is known.
    pub(crate) fn stand_still(&mut self, pause: Duration) {
        self.tools.iter_mut().for_each(|(.., at)| *at += pause);
        self.last_sign += pause;
        if let Some((_, since)) = &mut self.verdict {
            *since += pause;
        }
    }

    /// The CLI said this.
    pub(crate) fn note(&mut self, head: &Head, now: Instant) {
        self.tools.retain(|(id, ..)| !head.returns.contains(id));
        for (id, name) in head.calls.iter().filter(|(_, name)| WATCHED.contains(&name.as_str())) {
            if self.tools.len() < MOST_TOOLS {
                self.tools.push((id.clone(), name.clone(), now + self.limits.tool));
            }
        }
        if let Some(verdict) = head.verdict() {
            // Who has come to a verdict waits for no tool.
            self.tools.clear();
            let since = self.verdict.as_ref().map_or(now, |(_, since)| *since);
            self.verdict = Some((verdict, since));
        }
    }

    /// The last verdict.
    pub(crate) fn verdict(&self) -> Option<&Verdict> {
        self.verdict.as_ref().map(|(verdict, _)| verdict)
    }

    /// When something will be overdue, and what.
    pub(crate) fn next(&self) -> Option<(Instant, Overdue)> {
        let tool = self.tools.iter().min_by_key(|(.., at)| *at);
        let tool = tool.map(|(_, name, at)| (*at, Overdue::Tool(name.clone())));
        let farewell = self.verdict.as_ref().map(|(_, since)| {
            let silent = self.last_sign.max(*since) + self.limits.silence;
            (silent.min(*since + self.limits.farewell), Overdue::Farewell)
        });
        tool.into_iter().chain(farewell).min_by_key(|(at, _)| *at)
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
        farewell: Duration::from_secs(120),
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
        let mut watch = Watch::new(LIMITS, now);
        watch.note(&call("a", "WebFetch"), now);
        watch.note(&call("b", "WebSearch"), now + SECOND);
        assert_eq!(watch.next(), Some((now + 300 * SECOND, Overdue::Tool("WebFetch".into()))));
        watch.note(&result_of("a"), now + 2 * SECOND);
        assert_eq!(watch.next(), Some((now + 301 * SECOND, Overdue::Tool("WebSearch".into()))));
        watch.note(&result_of("b"), now + 3 * SECOND);
        assert_eq!(watch.next(), None);
    }

    #[test]
    fn limits_stand_still_while_nobody_listens() {
        let now = Instant::now();
        let mut watch = Watch::new(LIMITS, now);
        watch.note(&call("a", "WebFetch"), now);
        watch.stand_still(1000 * SECOND);
        assert_eq!(watch.next().unwrap().0, now + 1300 * SECOND);
        watch.note(&head(r#"{"type":"result","is_error":false}"#), now + 1000 * SECOND);
        watch.stand_still(500 * SECOND);
        assert_eq!(watch.next(), Some((now + 1510 * SECOND, Overdue::Farewell)));
    }

    #[test]
    fn other_tools_take_as_long_as_they_take() {
        let now = Instant::now();
        let mut watch = Watch::new(LIMITS, now);
        watch.note(&call("a", "Bash"), now);
        assert_eq!(watch.next(), None);
    }

    #[test]
    fn after_the_verdict_silence_is_short_and_talk_not_endless() {
        let now = Instant::now();
        let mut watch = Watch::new(LIMITS, now);
        watch.note(&call("a", "WebFetch"), now);
        watch.note(&head(r#"{"type":"result","is_error":false}"#), now);
        assert_eq!(watch.next(), Some((now + 10 * SECOND, Overdue::Farewell)));
        watch.sign_of_life(now + 9 * SECOND);
        assert_eq!(watch.next(), Some((now + 19 * SECOND, Overdue::Farewell)));
        watch.sign_of_life(now + 119 * SECOND);
        assert_eq!(watch.next(), Some((now + 120 * SECOND, Overdue::Farewell)));
    }

    #[test]
    fn the_parts_of_a_cancelled_run_are_shares_of_its_time() {
        let until = |part| LIMITS.until(part).as_secs();
        let parts = [Part::Cli, Part::Delivery, Part::Checkpoint, Part::Report].map(until);
        assert_eq!(parts, [10, 30, 60, 80]);
    }
}
