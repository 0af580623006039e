//! The command line: the real CLI's flags, and what they mean here.
//!
//! A flag whose meaning a stand-in cannot have (`--settings`, `--tools`, …) is taken with its
//! values, so that callers pass what they pass to the real CLI, and has no effect.

use std::ffi::OsString;

use lexopt::{Arg, Parser, ValueExt as _};

use crate::error::{Error, Result};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (mock-claude)\n");

const HELP: &str = "\
A stand-in for the Claude Code CLI that runs its prompt with bash.

Usage: guest-mock-claude [OPTIONS] [--] [PROMPT]

Without PROMPT the prompt is read from stdin.

Options:
  -p, --print                    print the answer and exit (always so)
      --output-format FORMAT     text (default), json or stream-json
      --input-format FORMAT      text (default) or stream-json
  -r, --resume ID                go on with the session ID
  -h, --help                     print this
  -v, --version                  print the version

Taken as the real CLI takes them, without effect:
      --verbose
      --dangerously-skip-permissions
      --append-system-prompt TEXT
      --append-system-prompt-file FILE
      --settings FILE-OR-JSON
      --tools NAME...
      --allowed-tools NAME...
      --disallowed-tools NAME...
  NAME... goes on to the next flag: put -- before PROMPT.

Special prompts:
  @fail:MSG            MSG on stderr and as the result, exit code 1
  @stuck-tool          call WebFetch and never return
  @hang-after-result   print the result and never exit
  @orphan-pipe         exit, leaving a process that holds stdout and stderr
  @echo:JSONL          print JSONL as it is, nothing else
  @deaf                as @hang-after-result, and ignore SIGTERM
  @flood:N             print N assistant events before the result
";

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Print this text: the help or the version.
    Print(&'static str),
    /// Answer prompts.
    Run(Options),
}

/// How to answer prompts.
#[derive(Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) format: Format,
    pub(crate) input: Input,
    /// The session to go on with; only characters that are safe in a file name.
    pub(crate) resume: Option<String>,
}

/// What goes to stdout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Format {
    /// The result's text.
    Text,
    /// The result event.
    Json,
    /// All events, one a line.
    StreamJson,
}

/// Where prompts come from.
#[derive(Debug, PartialEq)]
pub(crate) enum Input {
    /// The last positional argument is the one prompt.
    Argument(String),
    /// All of stdin is the one prompt.
    Text,
    /// Each user message on stdin is a prompt.
    Messages,
}

/// Reads the command line; the first argument is the program's name.
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

/// The flags as they were typed, the last of each.
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

/// INVARIANT: a session id names a file, so it holds no `/` and is not `..`.
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
