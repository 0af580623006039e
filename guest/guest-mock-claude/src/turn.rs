//! A turn: answers one prompt, with bash or by the rule of a special prompt.

use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::error::{Error, Result};
use crate::event::Message;
use crate::prompt::Prompt;
use crate::session::Session;
use crate::shell;

/// Answers a prompt. Returns the exit code.
pub(crate) fn run(session: &mut Session, text: &str) -> Result<u8> {
    let prompt = Prompt::parse(text)?;
    session.begin(text)?;
    match prompt {
        Prompt::Script(script) => run_script(session, script),
        Prompt::Fail(message) => fail(session, message),
        Prompt::StuckTool => call_stuck_tool(session),
        Prompt::HangAfterResult => hang_after_result(session),
        Prompt::OrphanPipe => leave_orphan(session),
        Prompt::Echo(lines) => session.finish_with_lines(lines).map(|()| 0),
        Prompt::Deaf => {
            ignore_sigterm()?;
            hang_after_result(session)
        }
        Prompt::Flood(count) => flood(session, count),
    }
}

fn run_script(session: &mut Session, script: &str) -> Result<u8> {
    session.announce()?;
    session.say(&Message::text("Executing command..."))?;
    session.say(&Message::bash(script))?;
    let run = shell::run(script)?;
    let failed = run.code != 0;
    session.say(&Message::tool_result(&run.output, failed))?;
    session.finish(&run.output, failed)?;
    Ok(run.code)
}

fn fail(session: &mut Session, message: &str) -> Result<u8> {
    // The turn fails in any case, also if stderr is closed.
    let _ = writeln!(io::stderr(), "{message}");
    session.announce()?;
    session.say(&Message::text(message))?;
    session.finish(message, true)?;
    Ok(1)
}

fn call_stuck_tool(session: &mut Session) -> Result<u8> {
    let input = json!({ "url": "https://example.com/", "prompt": "Never answered." });
    session.announce()?;
    session.say(&Message::tool_use("WebFetch", input))?;
    wait_for_ever()
}

fn hang_after_result(session: &mut Session) -> Result<u8> {
    answer(session, "Hanging after the result.")?;
    wait_for_ever()
}

/// Leaves a process in its own session that inherits stdout and stderr, so that their reader sees no
/// end of file when this program exits.
fn leave_orphan(session: &mut Session) -> Result<u8> {
    let orphan = Command::new("setsid")
        .args(["sleep", "infinity"])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|source| Error::Start { program: "setsid", source })?;
    answer(session, &format!("Process {} still holds stdout.", orphan.id()))?;
    Ok(0)
}

/// Prints many events, without writing them to the history: that would be slow.
fn flood(session: &mut Session, count: u64) -> Result<u8> {
    session.announce()?;
    for number in 1..=count {
        session.show(&Message::text(format!("Event {number} of {count}.")))?;
    }
    session.finish(&format!("Printed {count} events."), false)?;
    Ok(0)
}

fn answer(session: &mut Session, text: &str) -> Result<()> {
    session.announce()?;
    session.say(&Message::text(text))?;
    session.finish(text, false)
}

/// Blocks SIGTERM for the rest of the program.
fn ignore_sigterm() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.thread_block().map_err(|source| Error::Signals { source })
}

/// Sleeps until a signal ends the process.
fn wait_for_ever() -> ! {
    loop {
        nix::unistd::pause();
    }
}
