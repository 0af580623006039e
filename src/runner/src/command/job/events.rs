//! `runner job events`: what a job's agent does and did.

use std::io::{self, Write};
use std::time::Duration;

use platform::{Event, RunId};

use super::summary::tell_waiting;
use crate::agent::Printer;
use crate::error::{Error, Result};
use crate::operator::{OperatorClient, Patience, Watch, json_line};
use crate::options::Global;
use crate::output::Output;

const NOTES: &str = "\
With --json each line is an event: `position` is what --after goes on from, `event` is the agent's
own. Ctrl-C ends following and not the job.";

/// Show the events of a job's agent: what it says, and the tools that it calls
#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Arguments {
    /// Go on until the job has ended
    #[arg(short, long)]
    follow: bool,

    /// Only those after this position
    #[arg(long, value_name = "POSITION", default_value_t = 0)]
    after: i64,

    /// Print JSON, one event a line, for programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    patience: Patience,

    /// The job's id, or the beginning of it
    job: String,
}

/// Does it.
pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let operator = OperatorClient::of(global);
    let job = operator.job(&arguments.job)?;
    let run = job.run_id;
    if arguments.follow {
        tell_waiting(job.waits.as_deref(), global);
        operator.attend(run, &arguments.patience, |watch, output| {
            let mut teller = Teller::new(output.stdout(), arguments.json);
            follow(watch, run, arguments.after, &mut teller)
        })?;
    } else {
        let mut output = Output::open()?;
        let mut teller = Teller::new(output.stdout(), arguments.json);
        stored(&operator, run, arguments.after, &mut teller)?;
    }
    Ok(0)
}

/// Tells all events after a position, until the job has ended.
pub(super) fn follow(
    watch: &Watch<'_>,
    run: RunId,
    after: i64,
    teller: &mut Teller<impl Write>,
) -> Result<()> {
    let mut events = watch.ask(|client| Ok(client.follow(run, after)))?;
    while let Some(event) = watch.ask(|_| events.next().transpose())? {
        teller.tell(&event)?;
    }
    Ok(())
}

/// Tells the events after a position that are there.
fn stored(
    operator: &OperatorClient<'_>,
    run: RunId,
    mut after: i64,
    teller: &mut Teller<impl Write>,
) -> Result<()> {
    loop {
        let page = operator.ask(|client| client.events(run, after, Duration::ZERO))?;
        for event in &page.items {
            teller.tell(event)?;
        }
        if page.is_last || page.items.is_empty() {
            return Ok(());
        }
        after = page.next;
    }
}

/// Tells events to people or to programs.
pub(super) enum Teller<W> {
    People { printer: Printer<W>, attempt: u32 },
    Programs(W),
}

impl<W: Write> Teller<W> {
    pub(super) fn new(out: W, is_json: bool) -> Self {
        match is_json {
            true => Self::Programs(out),
            false => Self::People { printer: Printer::new(out), attempt: 1 },
        }
    }

    fn tell(&mut self, event: &Event) -> Result<()> {
        let told = match self {
            Self::Programs(out) => out.write_all(json_line(event)?.as_bytes()),
            Self::People { printer, attempt } => tell_people(printer, attempt, event),
        };
        told.map_err(|source| Error::Output { source })
    }
}

fn tell_people(
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
        let mut teller = Teller::new(&mut out, is_json);
        events.iter().for_each(|event| teller.tell(event).unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn people_are_told_that_another_attempt_begins() {
        let says = |text: &str| {
            json!({"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}})
                .to_string()
        };
        let text = told(false, &[event(1, 1, &says("one")), event(2, 2, &says("two"))]);
        assert_eq!(text, "one\n(attempt 2 begins anew)\ntwo\n");
    }

    #[test]
    fn programs_get_each_event_as_it_came_in_a_line_of_its_own() {
        let text = told(true, &[event(1, 1, "{\"b\": 1,\n\"a\": \"x\\ny\"}")]);
        let expected = r#"{"position":1,"attempt":1,"sequence":0,"receivedMs":5,"event":{"b": 1, "a": "x\ny"}}"#;
        assert_eq!(text, format!("{expected}\n"));
    }
}
