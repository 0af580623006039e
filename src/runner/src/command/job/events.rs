//! `runner job events`: prints the events of a job's agent.

use std::io::{self, Write};
use std::time::Duration;

use platform::{Event, RunId};

use super::summary::print_waiting_reason;
use crate::agent::Printer;
use crate::error::{Error, Result};
use crate::operator::{OperatorClient, Reconnect, RetryingClient, json_line};
use crate::output::Output;

const NOTES: &str = "\
With --json each line is an event: `position` is a value for --after, and `event` is the event as the
agent wrote it. Ctrl-C ends following, not the job.";

/// Show the events of a job's agent: its messages and its tool calls
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Arguments {
    /// Follow the job until it ends
    #[arg(short, long)]
    follow: bool,

    /// Only events after this position
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    after: i64,

    /// Print JSON, one event per line
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reconnect: Reconnect,

    /// Id of the job, or a unique prefix
    job: String,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let job = operator.job(&arguments.job)?;
    let run = job.run_id;
    if arguments.follow {
        print_waiting_reason(job.waits.as_deref(), operator.global);
        operator.with_retries(run, &arguments.reconnect, |retrying, output| {
            let mut writer = EventWriter::new(output.stdout(), arguments.json);
            follow(retrying, run, arguments.after, &mut writer)
        })?;
    } else {
        let mut output = Output::open()?;
        let mut writer = EventWriter::new(output.stdout(), arguments.json);
        stored(operator, run, arguments.after, &mut writer)?;
    }
    Ok(0)
}

/// Writes all events after a position, until the job has ended.
pub(super) fn follow(
    retrying: &RetryingClient<'_>,
    run: RunId,
    after: i64,
    writer: &mut EventWriter<impl Write>,
) -> Result<()> {
    let mut events = retrying.ask(|client| Ok(client.follow(run, after)))?;
    while let Some(event) = retrying.ask(|_| events.next().transpose())? {
        writer.write(&event)?;
    }
    Ok(())
}

/// Writes the stored events after a position.
fn stored(
    operator: &OperatorClient<'_>,
    run: RunId,
    mut after: i64,
    writer: &mut EventWriter<impl Write>,
) -> Result<()> {
    loop {
        let page = operator.ask(|client| client.events(run, after, Duration::ZERO))?;
        for event in &page.items {
            writer.write(event)?;
        }
        if page.is_last || page.items.is_empty() {
            return Ok(());
        }
        after = page.next;
    }
}

/// Writes events as text or as JSON lines.
pub(super) enum EventWriter<W> {
    Text { printer: Printer<W>, attempt: u32 },
    Json(W),
}

impl<W: Write> EventWriter<W> {
    pub(super) fn new(out: W, is_json: bool) -> Self {
        if is_json {
            Self::Json(out)
        } else {
            Self::Text { printer: Printer::new(out), attempt: 1 }
        }
    }

    fn write(&mut self, event: &Event) -> Result<()> {
        let written = match self {
            Self::Json(out) => out.write_all(json_line(event)?.as_bytes()),
            Self::Text { printer, attempt } => write_text(printer, attempt, event),
        };
        written.map_err(|source| Error::Output { source })
    }
}

fn write_text(
    printer: &mut Printer<impl Write>,
    attempt: &mut u32,
    event: &Event,
) -> io::Result<()> {
    if event.attempt != *attempt {
        *attempt = event.attempt;
        printer.note(&format!("(attempt {attempt} begins anew)\n"))?;
    }
    printer.event(event.event.get(), event.received_ms)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(position: i64, attempt: u32, event: &str) -> Event {
        let text = format!(
            r#"{{"position": {position}, "attempt": {attempt}, "sequence": 0, "receivedMs": 5, "event": {event}}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    fn told(is_json: bool, events: &[Event]) -> String {
        let mut out = Vec::new();
        let mut writer = EventWriter::new(&mut out, is_json);
        events.iter().for_each(|event| writer.write(event).unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_text_says_that_another_attempt_begins() {
        let says = |text: &str| {
            json!({"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}})
                .to_string()
        };
        let text = told(false, &[event(1, 1, &says("one")), event(2, 2, &says("two"))]);
        assert_eq!(text, "one\n(attempt 2 begins anew)\ntwo\n");
    }

    #[test]
    fn json_has_each_event_on_one_line() {
        let text = told(true, &[event(1, 1, "{\"b\": 1,\n\"a\": \"x\\ny\"}")]);
        let expected = r#"{"position":1,"attempt":1,"sequence":0,"receivedMs":5,"event":{"b": 1, "a": "x\ny"}}"#;
        assert_eq!(text, format!("{expected}\n"));
    }
}
