//! A session: writes messages to the history and, as events, to stdout.
//!
//! INVARIANT: the history is on disk before the result is printed, since the reader of the result may
//! read the history next.

use std::io::{self, Write as _};
use std::time::Instant;

use serde::Serialize;

use crate::arguments::Format;
use crate::error::{Error, Result};
use crate::event::{Init, MODEL, Message, MessageEvent, ResultEvent, Usage};
use crate::history::History;

/// A conversation of one or more turns.
pub(crate) struct Session {
    id: String,
    cwd: String,
    format: Format,
    history: History,
    /// When the current turn began.
    began: Instant,
}

impl Session {
    /// Resumes a session, or begins a new one with a random id.
    pub(crate) fn open(format: Format, resume: Option<String>) -> Result<Session> {
        let cwd = std::env::current_dir().map_err(|source| Error::WorkingDirectory { source })?;
        let cwd = cwd.to_string_lossy().into_owned();
        let (id, history) = match resume {
            Some(id) => {
                let history = History::resume(&id, &cwd)?;
                (id, history)
            }
            None => {
                let id = random_uuid();
                let history = History::create(&id, &cwd)?;
                (id, history)
            }
        };
        Ok(Session { id, cwd, format, history, began: Instant::now() })
    }

    /// Begins a turn: writes the prompt to the history.
    pub(crate) fn begin(&mut self, prompt: &str) -> Result<()> {
        self.began = Instant::now();
        let uuid = random_uuid();
        self.history.record(&self.id, &self.cwd, &uuid, &Message::prompt(prompt))
    }

    /// Writes a message to the history and prints its event.
    pub(crate) fn say(&mut self, message: &Message) -> Result<()> {
        let uuid = random_uuid();
        self.history.record(&self.id, &self.cwd, &uuid, message)?;
        self.print_message(message, &uuid)
    }

    /// Prints a message's event without writing it to the history.
    pub(crate) fn show(&self, message: &Message) -> Result<()> {
        self.print_message(message, &random_uuid())
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
            uuid: &random_uuid(),
        })
    }

    /// Ends a turn: flushes the history to the disk, then prints the result.
    pub(crate) fn finish(&self, result: &str, is_error: bool) -> Result<()> {
        self.history.sync()?;
        if self.format == Format::Text {
            return print(line_of(result).as_bytes());
        }
        print_json(&ResultEvent {
            r#type: "result",
            subtype: if is_error { "error" } else { "success" },
            is_error,
            duration_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            num_turns: 1,
            result,
            session_id: &self.id,
            total_cost_usd: 0,
            usage: Usage::default(),
            uuid: &random_uuid(),
        })
    }

    /// Ends a turn and prints these lines instead of a result.
    pub(crate) fn finish_with_lines(&self, lines: &str) -> Result<()> {
        self.history.sync()?;
        print(line_of(lines).as_bytes())
    }

    fn print_message(&self, message: &Message, uuid: &str) -> Result<()> {
        self.print_event(&MessageEvent {
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

/// Writes to stdout and flushes it.
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

fn random_uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Appends a line feed unless the text is empty or ends with one.
fn line_of(text: &str) -> String {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{end}")
}
