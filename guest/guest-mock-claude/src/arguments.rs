//! The command line: the flags of the Claude Code CLI.
//!
//! Flags that a mock cannot implement (`--settings`, `--tools`, …) are parsed with their values and
//! ignored, so that callers can pass the same arguments as to the real CLI.

use std::ffi::OsString;

use lexopt::{Arg, Parser, ValueExt as _};

use crate::error::{Error, Result};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (mock-claude)\n");

const HELP: &str = "\
A mock of the Claude Code CLI that runs its prompt with bash.

Usage: guest-mock-claude [OPTIONS] [--] [PROMPT]

Without PROMPT the prompt is read from stdin.

Options:
  -p, --print                    print the answer and exit (the only mode)
      --output-format FORMAT     text (default), json or stream-json
      --input-format FORMAT      text (default) or stream-json
  -r, --resume ID                resume the session ID
  -h, --help                     print this help
  -v, --version                  print the version

Accepted and ignored:
      --verbose
      --dangerously-skip-permissions
      --append-system-prompt TEXT
      --append-system-prompt-file FILE
      --settings FILE-OR-JSON
      --tools NAME...
      --allowed-tools NAME...
      --disallowed-tools NAME...
  NAME... ends at the next flag: put -- before PROMPT.

Special prompts:
  @fail:MSG            MSG on stderr and as the result, exit code 1
  @stuck-tool          call WebFetch and never return
  @hang-after-result   print the result and never exit
  @orphan-pipe         exit and leave a process that holds stdout and stderr
  @echo:JSONL          print JSONL and nothing else
  @deaf                like @hang-after-result, and ignore SIGTERM
  @flood:N             print N assistant events before the result
";

/// A parsed command line.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Print this text: the help or the version.
    Print(&'static str),
    /// Answer prompts.
    Run(Options),
}

/// The options for answering prompts.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) format: Format,
    pub(crate) input: Input,
    /// The session to resume. Holds only characters that are safe in a file name.
    pub(crate) resume: Option<String>,
}

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    /// The result's text.
    Text,
    /// The result event.
    Json,
    /// All events, one per line.
    StreamJson,
}

/// The source of prompts.
#[derive(Debug, PartialEq)]
pub(crate) enum Input {
    /// The last positional argument is the only prompt.
    Argument(String),
    /// The whole of stdin is the only prompt.
    Text,
    /// Each user message on stdin is a prompt.
    Messages,
}

/// Parses the command line. The first argument is the program's name.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let typed = Typed::read(&mut Parser::from_iter(arguments))
        .map_err(|source| Error::Arguments { source })?;
    if let Some(text) = typed.print {
        return Ok(Command::Print(text));
    }
    let format = match typed.output_format.as_deref() {
        None | Some("text") => Format::Text,
        Some("json") => Format::Json,
        Some("stream-json") => Format::StreamJson,
        Some(other) => return Err(value("--output-format", "text, json or stream-json", other)),
    };
    let messages = match typed.input_format.as_deref() {
        None | Some("text") => false,
        Some("stream-json") => true,
        Some(other) => return Err(value("--input-format", "text or stream-json", other)),
    };
    let input = match typed.prompt {
        Some(prompt) => Input::Argument(prompt),
        None if messages => Input::Messages,
        None => Input::Text,
    };
    let resume = typed.resume.map(session_id).transpose()?;
    Ok(Command::Run(Options { format, input, resume }))
}

/// The flags as typed. The last of each wins.
#[derive(Default)]
struct Typed {
    print: Option<&'static str>,
    output_format: Option<String>,
    input_format: Option<String>,
    resume: Option<String>,
    prompt: Option<String>,
}

impl Typed {
    fn read(parser: &mut Parser) -> std::result::Result<Typed, lexopt::Error> {
        let mut typed = Typed::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Arg::Short('h') | Arg::Long("help") => typed.print = Some(HELP),
                Arg::Short('v') | Arg::Long("version") => typed.print = Some(VERSION),
                Arg::Short('p') | Arg::Long("print") => {}
                Arg::Long("verbose" | "dangerously-skip-permissions") => {}
                Arg::Long("output-format") => {
                    typed.output_format = Some(parser.value()?.string()?);
                }
                Arg::Long("input-format") => typed.input_format = Some(parser.value()?.string()?),
                Arg::Short('r') | Arg::Long("resume") => {
                    typed.resume = Some(parser.value()?.string()?);
                }
                Arg::Long("append-system-prompt" | "append-system-prompt-file" | "settings") => {
                    parser.value()?;
                }
                Arg::Long("tools")
                | Arg::Long("allowed-tools" | "allowedTools")
                | Arg::Long("disallowed-tools" | "disallowedTools") => {
                    parser.values()?.for_each(drop);
                }
                Arg::Value(prompt) => typed.prompt = Some(prompt.string()?),
                other => return Err(other.unexpected()),
            }
        }
        Ok(typed)
    }
}

/// INVARIANT: a session id is part of a file name, so it holds no `/` and is not `..`.
fn session_id(id: String) -> Result<String> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if id.is_empty() || !id.bytes().all(safe) {
        return Err(value("--resume", "the id of a session", &id));
    }
    Ok(id)
}

fn value(flag: &'static str, allowed: &'static str, value: &str) -> Error {
    Error::Value { flag, allowed, value: value.to_owned() }
}
