//! Runs an agent's CLI and prints its events as readable text.
//!
//! The prompt is sent as a JSON message on standard input: it has no length limit, does not appear in `ps`,
//! and cannot be parsed as a flag. Events arrive as JSON, one per line.

mod codex;

#[cfg(feature = "platform")]
use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;

use contract::guest::{USER, WORKSPACE};
use sandbox::{ExecRequest, User};
use serde_json::{Value, json};

use crate::attend::AttendedCommand;
use crate::input::Input;
use crate::terminal::harmless;

/// An agent's command-line interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Agent {
    /// Mock agent: runs the prompt with bash
    Mock,
}

impl Agent {
    fn program(self) -> &'static str {
        match self {
            Self::Mock => "guest-mock-claude",
        }
    }

    /// The command that runs the agent on `prompt`, with environment, time limit and output cap of `base`.
    pub(crate) fn command(self, prompt: &str, base: ExecRequest) -> AttendedCommand {
        let flags = [
            self.program(),
            "--print",
            "--verbose",
            "--output-format",
            "stream-json",
            "--input-format",
            "stream-json",
            "--dangerously-skip-permissions",
        ];
        let message = json!({"type": "user", "message": {"role": "user", "content": prompt}});
        let request = ExecRequest {
            argv: flags.map(Into::into).into(),
            cwd: Some(PathBuf::from(WORKSPACE)),
            user: Some(User::Name(USER.to_owned())),
            stdin: true,
            pty: None,
            ..base
        };
        AttendedCommand { request, input: Input::Bytes(format!("{message}\n").into_bytes()) }
    }
}

/// Prints events as text. Accepts the agent's output in chunks of any size, or single events.
pub(crate) struct Printer<W> {
    out: W,
    line: Vec<u8>,
    /// The current line exceeds the limit, and the rest of it is dropped.
    is_truncated: bool,
    /// The start times in milliseconds of tool calls without a result, by ID.
    #[cfg(feature = "platform")]
    calls: HashMap<String, i64>,
}

/// The largest event that is printed, in bytes.
const LONGEST: usize = 1 << 20;
#[cfg(feature = "platform")]
/// The largest number of open tool calls that are tracked.
const MOST_CALLS: usize = 1000;
#[cfg(feature = "platform")]
/// The shortest duration of a tool call that is printed, in milliseconds.
const SHOWN_DURATION: i64 = 1000;
/// How many lines of a tool's result are printed.
const RESULT_LINES: usize = 40;
const TOO_LONG: &str = "(an event that is too long to be shown)\n";

impl<W: Write> Printer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self {
            out,
            line: Vec::new(),
            is_truncated: false,
            #[cfg(feature = "platform")]
            calls: HashMap::new(),
        }
    }

    /// Prints an event that arrived at `at`, in milliseconds.
    #[cfg(feature = "platform")]
    pub(crate) fn event(&mut self, json: &str, at: i64) -> io::Result<()> {
        if json.len() > LONGEST {
            return self.note(TOO_LONG);
        }
        let text = match serde_json::from_str(json) {
            Ok(event) => readable(&event) + &self.durations(&event, at),
            Err(_) => format!("{json}\n"),
        };
        self.note(&text)
    }

    /// Prints text that is not an event.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(harmless(text).as_bytes())
    }

    /// The durations of the tool calls whose results an event contains, if they are long.
    #[cfg(feature = "platform")]
    fn durations(&mut self, event: &Value, at: i64) -> String {
        let blocks = event["message"]["content"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut text = String::new();
        for block in blocks {
            let id = |key: &str| block[key].as_str().unwrap_or_default().to_owned();
            match block["type"].as_str() {
                Some("tool_use") if self.calls.len() < MOST_CALLS => {
                    self.calls.insert(id("id"), at);
                }
                Some("tool_result") => {
                    let begun = self.calls.remove(&id("tool_use_id"));
                    let took = begun.map_or(0, |begun| at.saturating_sub(begun));
                    if took >= SHOWN_DURATION {
                        text.push_str(&format!("  ({:.1} s)\n", took as f64 / 1000.0));
                    }
                }
                _ => {}
            }
        }
        text
    }

    pub(crate) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            let room = LONGEST - self.line.len();
            let (kept, over) = piece.split_at(piece.len().min(room));
            self.line.extend_from_slice(kept);
            self.is_truncated |= !over.is_empty();
            if piece.ends_with(b"\n") {
                self.finish()?;
            }
        }
        Ok(())
    }

    /// Prints a last line without a line feed.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let text = match serde_json::from_slice(&self.line) {
            Ok(event) if !self.is_truncated => readable(&event),
            _ if self.is_truncated => TOO_LONG.to_owned(),
            _ if self.line.trim_ascii().is_empty() => String::new(),
            // Output outside of the protocol is usually an error message.
            _ => format!("{}\n", String::from_utf8_lossy(self.line.trim_ascii_end())),
        };
        self.line.clear();
        self.is_truncated = false;
        self.note(&text)
    }
}

/// An event as lines of text; empty for an event without readable content.
fn readable(event: &Value) -> String {
    match event["type"].as_str() {
        Some("system") if event["subtype"] == "init" => {
            let text = |key: &str| event[key].as_str().unwrap_or("?").to_owned();
            format!("session {}  model {}\n", text("session_id"), text("model"))
        }
        Some("assistant" | "user") => blocks(&event["message"]["content"]),
        Some("result") => outcome(event),
        _ => codex::readable(event),
    }
}

fn blocks(content: &Value) -> String {
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    blocks.iter().map(block).collect()
}

fn block(block: &Value) -> String {
    match block["type"].as_str() {
        Some("text") => format!("{}\n", block["text"].as_str().unwrap_or_default()),
        Some("tool_use") => {
            let name = block["name"].as_str().unwrap_or("?");
            match block["input"]["command"].as_str() {
                Some(command) if name == "Bash" => format!("$ {command}\n"),
                _ => format!("{name} {}\n", block["input"]),
            }
        }
        Some("tool_result") => result_lines(&block["content"]),
        _ => String::new(),
    }
}

/// A tool's result, indented. It is a string, or a list of text blocks.
fn result_lines(content: &Value) -> String {
    let joined = || {
        let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
        let texts = blocks.iter().filter_map(|block| block["text"].as_str());
        texts.collect::<Vec<_>>().join("\n")
    };
    let text = content.as_str().map_or_else(joined, str::to_owned);
    let lines: Vec<_> = text.lines().collect();
    let mut shown: String =
        lines.iter().take(RESULT_LINES).map(|line| format!("  {line}\n")).collect();
    if lines.len() > RESULT_LINES {
        shown.push_str(&format!("  … {} more lines\n", lines.len() - RESULT_LINES));
    }
    shown
}

fn outcome(event: &Value) -> String {
    let seconds = event["duration_ms"].as_f64().unwrap_or_default() / 1000.0;
    let turns = event["num_turns"].as_u64().unwrap_or_default();
    let plural = if turns == 1 { "turn" } else { "turns" };
    let word = if event["is_error"] == true { "failed" } else { "done" };
    let cost = match event["total_cost_usd"].as_f64().unwrap_or_default() {
        dollars if dollars > 0.0 => format!(", ${dollars:.4}"),
        _ => String::new(),
    };
    let why = match event["result"].as_str() {
        Some(text) if event["is_error"] == true && !text.trim().is_empty() => format!(": {text}"),
        _ => String::new(),
    };
    format!("{word} in {seconds:.1} s, {turns} {plural}{cost}{why}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(pieces: &[&str]) -> String {
        let mut out = Vec::new();
        let mut printer = Printer::new(&mut out);
        for piece in pieces {
            printer.write(piece.as_bytes()).unwrap();
        }
        printer.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_prompt_is_sent_on_standard_input_and_not_as_an_argument() {
        let prompt = "say \"hi\"\n--help";
        let command = Agent::Mock.command(prompt, ExecRequest::default());

        let Input::Bytes(bytes) = command.input else { panic!("no bytes") };
        let message: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(message["message"]["content"], prompt);
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert!(
            command.request.argv.iter().all(|argument| !argument.to_string_lossy().contains("hi"))
        );
        assert_eq!(command.request.user, Some(User::Name("user".into())));
    }

    #[test]
    fn a_turn_is_printed_as_session_text_commands_and_result() {
        let events = [
            r#"{"type":"system","subtype":"init","session_id":"s1","model":"m"}"#,
            r#"{"type":"assistant","message":{"content":[{"type":"text","text":"Executing"}]}}"#,
            r#"{"type":"assistant","message":{"content":[{"type":"tool_use","name":"Bash","input":{"command":"ls"}}]}}"#,
            r#"{"type":"user","message":{"content":[{"type":"tool_result","content":"a\nb"}]}}"#,
            r#"{"type":"result","subtype":"success","is_error":false,"duration_ms":100,"num_turns":1}"#,
        ];
        let text = events.join("\n") + "\n";
        let expected = "session s1  model m\nExecuting\n$ ls\n  a\n  b\ndone in 0.1 s, 1 turn\n";
        assert_eq!(shown(&[&text]), expected);
        let (first, second) = text.split_at(77);
        assert_eq!(shown(&[first, second]), expected);
    }

    #[test]
    fn a_failed_result_shows_cost_and_reason() {
        let event = r#"{"type":"result","is_error":true,"duration_ms":2000,"num_turns":3,
            "total_cost_usd":0.01234,"result":"no credit"}"#;
        assert_eq!(
            shown(&[&event.replace('\n', "")]),
            "failed in 2.0 s, 3 turns, $0.0123: no credit\n"
        );
    }

    #[cfg(feature = "platform")]
    #[test]
    fn a_long_tool_call_shows_its_duration() {
        let call = r#"{"type":"assistant","message":{"content":[
            {"type":"tool_use","id":"t","name":"Read","input":{"file":"a"}}]}}"#;
        let result = r#"{"type":"user","message":{"content":[
            {"type":"tool_result","tool_use_id":"t","content":"x"}]}}"#;
        let mut printer = Printer::new(Vec::new());

        printer.event(call, 1_000).unwrap();
        printer.event(result, 3_500).unwrap();
        printer.event(call, 5_000).unwrap();
        printer.event(result, 5_999).unwrap();

        let text = String::from_utf8(printer.out).unwrap();
        assert_eq!(text, "Read {\"file\":\"a\"}\n  x\n  (2.5 s)\nRead {\"file\":\"a\"}\n  x\n");
    }

    #[test]
    fn output_that_is_no_event_is_printed_with_control_characters_escaped() {
        assert_eq!(shown(&["\x1b[2Jpanic: x\n"]), "\\x1b[2Jpanic: x\n");
        assert_eq!(shown(&["no line end"]), "no line end\n");
    }

    #[test]
    fn a_line_without_end_is_truncated_at_the_limit() {
        let mut printer = Printer::new(Vec::new());
        for _ in 0..40 {
            printer.write(&[b'x'; 64 << 10]).unwrap();
        }
        assert!(printer.line.len() <= LONGEST);
        printer.write(b"\n{\"type\":\"result\",\"num_turns\":2}\n").unwrap();
        let text = String::from_utf8(printer.out).unwrap();
        assert_eq!(text, "(an event that is too long to be shown)\ndone in 0.0 s, 2 turns\n");
    }

    #[test]
    fn a_long_tool_result_is_abridged() {
        let content = "line\\n".repeat(RESULT_LINES + 3);
        let event = format!(
            r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","content":"{content}"}}]}}}}"#
        );
        assert!(shown(&[&event]).ends_with("  … 3 more lines\n"));
    }
}
