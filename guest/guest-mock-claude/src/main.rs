//! A stand-in for the Claude Code CLI that runs its prompt with bash.
//!
//! It takes the real program's flags, prints the events that a run of one Bash tool call prints
//! and leaves the same history file, without a model or a network. Prompts that begin with `@`
//! misbehave on purpose, to test whoever drives the CLI.
//!
//! It is one thread. It owns its history file, and the bash of the current turn, whose whole
//! process group ends with it.
//!
//! | exit code | when |
//! |---|---|
//! | bash's; 128+n for a signal | the prompt ran |
//! | 1 | bad flags, bad input, an I/O error; the reason is on stderr |
//! | 141 | nobody reads stdout any more; silently, as SIGPIPE would end it |
//! | 128+n | SIGTERM, SIGINT or SIGHUP came while bash ran |

mod arguments;
mod error;
mod event;
mod history;
mod input;
mod prompt;
mod session;
mod shell;
mod timestamp;
mod turn;
mod uuid;

use std::error::Error as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use crate::arguments::Command;
use crate::error::{Error, Result};
use crate::session::Session;

fn main() -> ExitCode {
    let code = match run() {
        Ok(code) => code,
        Err(Error::StdoutClosed) => 128 + nix::libc::SIGPIPE as u8,
        Err(Error::Stopped { signal }) => 128 + signal,
        Err(error) => {
            report(&error);
            1
        }
    };
    ExitCode::from(code)
}

fn run() -> Result<u8> {
    let options = match arguments::parse(std::env::args_os())? {
        Command::Print(text) => return session::print(text.as_bytes()).map(|()| 0),
        Command::Run(options) => options,
    };
    let mut prompts = input::prompts(options.input);
    let first = prompts.next().unwrap_or(Err(Error::NoPrompt))?;
    let mut session = Session::open(options.format, options.resume)?;
    let mut code = turn::take(&mut session, &first)?;
    for prompt in prompts {
        code = turn::take(&mut session, &prompt?)?;
    }
    Ok(code)
}

/// Writes the error and its causes to stderr, which may be closed too.
fn report(error: &Error) {
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(&format!(": {source}"));
        cause = source.source();
    }
    let _ = writeln!(io::stderr(), "{text}");
}
