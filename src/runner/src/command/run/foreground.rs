//! `runner run` in the foreground: the command's input, output and copies.

use std::io::Write as _;
use std::time::Instant;

use sandbox::{Exit, Sandbox, Stream};

use super::arguments::Run;
use super::{Stages, copy_all_out};
use crate::agent::Printer;
use crate::attend::{AttendedCommand, attend};
use crate::background::describe;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::output::Output;
use crate::shortage;

/// Steps 4 and 5; returns the command's exit code.
pub(super) fn work(
    run: &Run,
    command: &AttendedCommand,
    sandbox: &dyn Sandbox,
    interrupt: &Interrupt,
    stages: &mut Stages,
) -> Result<u8> {
    let begun = Instant::now();
    let exit = show(run, command, sandbox, interrupt)?;
    stages.add("command", begun.elapsed());
    shortage::print(&exit, run.config.memory_mib);
    log::info!(
        "the command ended; how={:?} ms={}",
        describe(&exit.outcome),
        exit.duration.as_millis()
    );
    let code = exit.outcome.exit_code();
    if run.copies_out.is_empty() {
        return Ok(code);
    }
    let begun = Instant::now();
    let copies = &run.copies_out;
    let failed = copy_all_out(copies, sandbox, run.is_quiet, &|| interrupt.check())?;
    stages.add("copy out", begun.elapsed());
    match failed {
        0 => Ok(code),
        failed => Err(Error::NotCopiedOut { failed, total: copies.len(), code }),
    }
}

fn show(
    run: &Run,
    command: &AttendedCommand,
    sandbox: &dyn Sandbox,
    interrupt: &Interrupt,
) -> Result<Exit> {
    let mut output = Output::open()?.cancel_on(interrupt.cancelled());
    if !run.prints_events {
        let mut sink = |stream, data: &[u8]| output.write(stream, data);
        return attend(sandbox, command, interrupt, &mut sink);
    }
    let Output { stdout, mut stderr } = output;
    let mut printer = Printer::new(stdout);
    let mut sink = |stream: Stream, data: &[u8]| match stream {
        Stream::Stdout => printer.write(data),
        Stream::Stderr => stderr.write_all(data),
    };
    let exit = attend(sandbox, command, interrupt, &mut sink)?;
    printer.finish().map_err(|source| Error::Output { source })?;
    Ok(exit)
}
