//! A mock of the Claude Code CLI that runs its prompt with bash.
//!
//! It accepts the real program's flags, prints the events of a run with one Bash tool call and writes
//! the same history file, without a model or a network. Prompts that begin with `@` make it misbehave,
//! to test the programs that drive the CLI.
//!
//! It has one thread. It owns its history file and the bash of the current turn; a signal kills bash's
//! process group.
//!
//! | exit code | when |
//! |---|---|
//! | bash's; 128+n for signal n | the prompt ran |
//! | 1 | bad flags, bad input, an I/O error; the reason is on stderr |
//! | 141 | stdout was closed; without a message, as SIGPIPE would end it |
//! | 128+n | SIGTERM, SIGINT or SIGHUP came while bash ran |

mod arguments;
mod error;
mod event;
mod history;
mod input;
mod prompt;
mod session;
mod shell;
mod turn;

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
    let mut code = turn::run(&mut session, &first)?;
    for prompt in prompts {
        code = turn::run(&mut session, &prompt?)?;
    }
    Ok(code)
}

fn report(error: &Error) {
    // Standard error may be closed; there is no other place for the text.
    let _ = writeln!(io::stderr(), "error: {}", base::error::chain(error));
}
