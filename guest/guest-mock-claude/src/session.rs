//! A session: what is said goes to the history and, as events, to stdout.
//!
//! INVARIANT: the history is on disk before the result is printed, since whoever reads the
//! result may read the history next.

use std::io::{self, Write as _};
use std::time::Instant;

use serde::Serialize;

use crate::arguments::Format;
use crate::error::{Error, Result};
use crate::event::{Init, MODEL, Message, Outcome, Said, Usage};
use crate::history::History;
use crate::uuid;

/// One conversation, of one turn or more.
pub(crate) struct Session {
    id: String,
    cwd: String,
    format: Format,
    history: History,
    /// When the current turn began.
    began: Instant,
}

impl Session {
    /// Opens the session to resume, else a new one under a random id.
    pub(crate) fn open(format: Format, resume: Option<String>) -> Result<Session> {
        let cwd = std::env::current_dir().map_err(|source| Error::WorkingDirectory { source })?;
        let cwd = cwd.to_string_lossy().into_owned();
        let (id, history) = match resume {
            Some(id) => {
                let history = History::resume(&id, &cwd)?;
                (id, history)
            }
            None => {
                let id = uuid::random()?;
                let history = History::create(&id, &cwd)?;
                (id, history)
            }
        };
        Ok(Session { id, cwd, format, history, began: Instant::now() })
    }

    /// Begins a turn: the prompt goes to the history.
    pub(crate) fn begin(&mut self, prompt: &str) -> Result<()> {
        self.began = Instant::now();
        let uuid = uuid::random()?;
        self.history.record(&self.id, &self.cwd, &uuid, &Message::prompt(prompt))
    }

    /// Writes a message to the history and prints its event.
    pub(crate) fn say(&mut self, message: &Message) -> Result<()> {
        let uuid = uuid::random()?;
        self.history.record(&self.id, &self.cwd, &uuid, message)?;
        self.print_said(message, &uuid)
    }

    /// Prints a message's event only.
    pub(crate) fn show(&self, message: &Message) -> Result<()> {
        self.print_said(message, &uuid::random()?)
    }

    /// Prints the `system/init` event.
    pub(crate) fn announce(&self) -> Result<()> {
        self.print_event(&Init {
            r#type: "system",
            subtype: "init",
            cwd: &self.cwd,
            session_id: &self.id,
            tools: ["Bash"],
            model: MODEL,
            uuid: &uuid::random()?,
        })
    }

    /// Ends a turn: the history is synced, then the result printed in the wanted format.
    pub(crate) fn finish(&self, result: &str, is_error: bool) -> Result<()> {
        self.history.sync()?;
        if self.format == Format::Text {
            return print(line_of(result).as_bytes());
        }
        print_json(&Outcome {
            r#type: "result",
            subtype: if is_error { "error" } else { "success" },
            is_error,
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            num_turns: 1,
            result,
            session_id: &self.id,
            total_cost_usd: 0,
            usage: Usage::default(),
            uuid: &uuid::random()?,
        })
    }

    /// Ends a turn whose output is these lines and nothing else.
    pub(crate) fn finish_with_lines(&self, lines: &str) -> Result<()> {
        self.history.sync()?;
        print(line_of(lines).as_bytes())
    }

    fn print_said(&self, message: &Message, uuid: &str) -> Result<()> {
        self.print_event(&Said {
            r#type: message.role(),
            message,
            parent_tool_use_id: (),
            session_id: &self.id,
            uuid,
        })
    }

    fn print_event(&self, event: &impl Serialize) -> Result<()> {
        match self.format {
            Format::StreamJson => print_json(event),
            Format::Text | Format::Json => Ok(()),
        }
    }
}

/// Writes to stdout at once.
pub(crate) fn print(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    written.map_err(|source| match source.kind() {
        io::ErrorKind::BrokenPipe => Error::StdoutClosed,
        _ => Error::WriteStdout { source },
    })
}

fn print_json(event: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(event).map_err(|source| Error::Encode { source })?;
    line.push(b'\n');
    print(&line)
}

/// The text with a line end, unless it is empty or has one.
fn line_of(text: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}")
}
