//! Runs a command in a VM from its start to its end: output, input, signals, terminal.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{Event, ExecRequest, Execution, Exit, Outcome, Sandbox, Stream};

use crate::error::{Error, Result};
use crate::input::Input;
use crate::interrupt::{GRACE, Interrupt};
use crate::terminal::Raw;

/// How long a guest may take to accept a command.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A command and its standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AttendedCommand {
    pub(crate) request: ExecRequest,
    pub(crate) input: Input,
}

impl AttendedCommand {
    /// A command whose standard input, if it has one, is that of this process.
    pub(crate) fn new(request: ExecRequest) -> Self {
        let input = if request.stdin { Input::Stdin } else { Input::Nothing };
        Self { request, input }
    }

    /// The first word of the command.
    pub(crate) fn program(&self) -> String {
        self.request
            .argv
            .first()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

/// Receives the output of a command, and its end.
pub(crate) trait Sink {
    /// The command, or a followed descendant, wrote `data`.
    fn write(&mut self, stream: Stream, data: &[u8]) -> io::Result<()>;

    /// The command ended; the output of its descendants follows.
    fn ended(&mut self, _exit: &Exit) {}
}

impl<F: FnMut(Stream, &[u8]) -> io::Result<()>> Sink for F {
    fn write(&mut self, stream: Stream, data: &[u8]) -> io::Result<()> {
        self(stream, data)
    }
}

/// Runs a command to its end. Fails if it cannot start, or if its output cannot be written.
pub(crate) fn attend(
    sandbox: &dyn Sandbox,
    command: &AttendedCommand,
    interrupt: &Interrupt,
    sink: &mut dyn Sink,
) -> Result<Exit> {
    attend_to(&start(sandbox, command)?, command, interrupt, sink)
}

/// Starts a command. A failure to execute it is reported by its exit.
pub(crate) fn start(
    sandbox: &dyn Sandbox,
    command: &AttendedCommand,
) -> Result<Arc<dyn Execution>> {
    Ok(sandbox.exec(&command.request, Instant::now() + START_TIMEOUT)?.into())
}

/// As [`attend`], for a command that was started.
pub(crate) fn attend_to(
    execution: &Arc<dyn Execution>,
    command: &AttendedCommand,
    interrupt: &Interrupt,
    sink: &mut dyn Sink,
) -> Result<Exit> {
    let raw = match command {
        AttendedCommand { request: ExecRequest { pty: Some(_), .. }, input: Input::Stdin } => {
            Raw::enter()?
        }
        _ => None,
    };
    let target = interrupt.deliver_to(execution);
    let feeder = command.input.feed(execution)?;
    let ended = pump(&**execution, sink);
    drop(target);
    if matches!(ended, Err(Error::Sandbox(_))) {
        // The guest no longer answers. The thread `stdin` may wait for it: abort ends that, too.
        interrupt.abort();
    }
    drop(feeder);
    drop(raw);
    let exit = ended?;
    match exit.outcome {
        Outcome::FailedToStart { code, message } => {
            Err(Error::NotStarted { program: command.program(), code, message })
        }
        _ => {
            report(&exit);
            Ok(exit)
        }
    }
}

/// Forwards output until the command ends. If the sink fails, the command is cancelled.
fn pump(execution: &dyn Execution, sink: &mut dyn Sink) -> Result<Exit> {
    let (mut failure, mut deadline) = (None, None);
    loop {
        match execution.next(deadline)? {
            Event::Output(..) if failure.is_some() => {}
            Event::Output(stream, data) => {
                if let Err(error) = sink.write(stream, &data) {
                    failure = Some(error);
                    let grace = Instant::now() + GRACE;
                    deadline = Some(grace);
                    execution.cancel(grace)?;
                }
            }
            Event::Ended(exit) => sink.ended(&exit),
            Event::Exit(exit) => {
                return failure.map_or(Ok(exit), |source| Err(Error::Output { source }));
            }
        }
    }
}

fn report(exit: &Exit) {
    if exit.outcome == Outcome::TimedOut {
        log::warn!("the command was killed at its time limit; after={:.1?}", exit.duration);
    }
    if exit.dropped > 0 {
        log::warn!("output beyond the limit was dropped; bytes={}", exit.dropped);
    }
}

#[cfg(test)]
mod tests {
    use sandbox::SandboxFactory as _;
    use sandbox::fake::{Factory, Script};

    use super::*;

    fn command(program: &str) -> AttendedCommand {
        AttendedCommand::new(ExecRequest { argv: vec![program.into()], ..ExecRequest::default() })
    }

    /// Runs `command` without the threads `signals` and `stdin`, which exist once per process.
    fn pumped(factory: &Factory, command: &AttendedCommand, sink: &mut dyn Sink) -> Result<Exit> {
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let execution = sandbox.exec(&command.request, Instant::now()).unwrap();
        pump(&*execution, sink)
    }

    #[test]
    fn output_is_forwarded_in_order_and_the_exit_is_returned() {
        let factory = Script::default().on("make", &["one ", "two"], 2).factory();
        let mut seen = Vec::new();
        let mut sink = |stream: Stream, data: &[u8]| {
            assert_eq!(stream, Stream::Stdout);
            seen.extend_from_slice(data);
            Ok(())
        };

        let exit = pumped(&factory, &command("make"), &mut sink).unwrap();

        assert_eq!(exit.outcome, Outcome::Exited(2));
        assert_eq!(seen, b"one two");
    }

    #[test]
    fn output_of_descendants_follows_the_end_of_the_command() {
        #[derive(Default)]
        struct Transcript(String);
        impl Sink for Transcript {
            fn write(&mut self, _: Stream, data: &[u8]) -> io::Result<()> {
                self.0 += &String::from_utf8_lossy(data);
                Ok(())
            }
            fn ended(&mut self, exit: &Exit) {
                self.0 += &format!("ended {} ", exit.outcome.exit_code());
            }
        }
        let factory =
            Script::default().on("make", &["own "], 3).leave("make", &["later"]).factory();
        let mut transcript = Transcript::default();

        let exit = pumped(&factory, &command("make"), &mut transcript).unwrap();

        assert_eq!(exit.outcome, Outcome::Exited(3));
        assert_eq!(transcript.0, "own ended 3 later");
    }

    #[test]
    fn a_failed_write_cancels_the_command_and_is_not_repeated() {
        let factory = Script::default().on("yes", &["y", "y", "y"], 0).factory();
        let mut asked = 0;
        let mut sink = |_: Stream, _: &[u8]| {
            asked += 1;
            Err(io::Error::from(io::ErrorKind::BrokenPipe))
        };

        let error = pumped(&factory, &command("yes"), &mut sink).unwrap_err();

        assert!(error.is_quiet());
        assert_eq!(asked, 1);
    }
}
