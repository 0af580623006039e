//! A command in a guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use base::event::Event as Wake;
use vsock_proto::{CHUNK, Exec, Exit, HostBody, PtySize, Stream};

use super::handle::Handle;
use super::queue::Item;
use super::request::End;
use super::{Call, Reserved};
use crate::deadline::Deadline;
use crate::error::Halt;
use crate::{Error, Loss, Phase, Result};

/// A command that runs, or has ended. Dropped before its exit has come, it is cancelled.
///
/// Threads may share it: one takes output while another sends input. `None` as a deadline
/// waits as long as the command and the guest live.
#[derive(Debug)]
pub struct Execution {
    call: Call,
    program: String,
    pid: Option<u32>,
    /// Whether more input may be sent.
    has_input: AtomicBool,
}

/// What a command does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It wrote something. Pieces are as they came, and may end within a character.
    Output {
        /// The stream.
        stream: Stream,
        /// The bytes; never empty.
        data: Vec<u8>,
    },
    /// It ended, and its own output has been taken; output of its descendants follows.
    Ended(Exit),
    /// It ended, and all its output has been taken.
    Exit(Exit),
}

/// A command's complete output, and its exit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// From its standard output.
    pub stdout: Vec<u8>,
    /// From its standard error.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: Exit,
}

impl Execution {
    pub(crate) fn start(handle: &Arc<Handle>, exec: Exec, deadline: &Deadline) -> Result<Self> {
        let program =
            exec.argv.first().map_or("".into(), |name| String::from_utf8_lossy(name)).into_owned();
        let failed = |halt: Halt, program| halt.during(Phase::Start { program });
        let has_input = AtomicBool::new(exec.stdin);
        let (exec, parts) = exec.split();
        let call = match Call::start(handle, HostBody::Exec(exec), deadline) {
            Ok(call) => call,
            Err(halt) => return Err(failed(halt, program)),
        };
        for part in parts {
            if let Err(halt) = call.send(HostBody::ExecPart(part), deadline) {
                return Err(failed(halt, program));
            }
        }
        let begun = call.wait(deadline, |state| match (state.pid, &state.end) {
            (None, None) => None,
            (pid, _) => Some(pid),
        });
        match begun {
            Ok(pid) => Ok(Self { call, program, pid, has_input }),
            Err(halt) => Err(failed(halt, program)),
        }
    }

    /// The command's process id in the guest; none if it could not be started.
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The next piece of output, or the exit, again and again once all output is taken.
    pub fn next(&self, deadline: Option<Instant>) -> Result<Event> {
        let phase = || Phase::Output { program: self.program.clone() };
        self.event(&Deadline::new(deadline), phase)
    }

    /// How the command ends; its output is dropped.
    pub fn wait(&self, deadline: Option<Instant>) -> Result<Exit> {
        let deadline = Deadline::new(deadline);
        loop {
            if let Event::Exit(exit) = self.event(&deadline, || self.finish())? {
                return Ok(exit);
            }
        }
    }

    /// All output that is not taken yet, and how the command ends. More than `limit` bytes of
    /// both streams together are an error, and then the command had better be dropped.
    pub fn output(&self, limit: usize, deadline: Option<Instant>) -> Result<Output> {
        let deadline = Deadline::new(deadline);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match self.event(&deadline, || self.finish())? {
                Event::Exit(exit) => return Ok(Output { stdout, stderr, exit }),
                Event::Output { data, .. } if stdout.len() + stderr.len() + data.len() > limit => {
                    return Err(Error::TooMuchOutput { program: self.program.clone(), limit });
                }
                Event::Ended(_) => {}
                Event::Output { stream: Stream::Stdout, data } => stdout.extend(data),
                Event::Output { stream: Stream::Stderr, data } => stderr.extend(data),
            }
        }
    }

    /// Sends `data` to the command's standard input; waits while the command takes none. If that
    /// fails, then some of it may have been sent.
    pub fn write_stdin(&self, mut data: &[u8], deadline: Option<Instant>) -> Result<()> {
        let deadline = Deadline::new(deadline);
        let failed = |halt: Halt| halt.during(Phase::Input { program: self.program.clone() });
        while !data.is_empty() {
            if !self.has_input.load(Ordering::Relaxed) {
                return Err(self.input_closed());
            }
            let most = data.len().min(CHUNK);
            let Reserved::Granted(count) =
                self.call.reserve(1, most as u64, &deadline).map_err(failed)?
            else {
                return Err(self.input_closed());
            };
            // At most `most`.
            let (chunk, rest) = data.split_at(count as usize);
            self.call.send(HostBody::Data(chunk), &deadline).map_err(failed)?;
            data = rest;
        }
        Ok(())
    }

    /// Sends as much of `data` as the command takes now: perhaps nothing, so 0. `deadline` is for a guest
    /// that reads nothing at all.
    pub fn write_some(&self, data: &[u8], deadline: Instant) -> Result<usize> {
        let failed = |halt: Halt| halt.during(Phase::Input { program: self.program.clone() });
        let most = data.len().min(CHUNK);
        if !self.has_input.load(Ordering::Relaxed) {
            return Err(self.input_closed());
        }
        let now = Deadline::new(Instant::now());
        let count = match self.call.reserve(1, most as u64, &now) {
            // At most `most`.
            Ok(Reserved::Granted(count)) => count as usize,
            Ok(Reserved::Ended(_)) => return Err(self.input_closed()),
            Err(Halt::TimedOut { .. }) => return Ok(0),
            Err(halt) => return Err(failed(halt)),
        };
        let chunk = HostBody::Data(data.get(..count).unwrap_or_default());
        self.call.send(chunk, &Deadline::new(deadline)).map_err(failed)?;
        Ok(count)
    }

    /// Sets `event` whenever the command does something that another call could return, while both live.
    pub fn notify(&self, event: &Arc<Wake>) {
        self.call.notify(event);
    }

    /// Ends the command's standard input.
    pub fn close_stdin(&self, deadline: Instant) -> Result<()> {
        if !self.has_input.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.control(HostBody::End, deadline)?;
        self.has_input.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Resizes the command's terminal.
    pub fn resize(&self, size: PtySize, deadline: Instant) -> Result<()> {
        self.control(HostBody::Resize(size), deadline)
    }

    /// Sends a signal to the command; with a terminal, to the processes in its foreground.
    pub fn signal(&self, signal: u8, deadline: Instant) -> Result<()> {
        self.control(HostBody::Signal(signal), deadline)
    }

    /// Kills the command and all its descendants; its exit will say so.
    pub fn cancel(&self, deadline: Instant) -> Result<()> {
        self.control(HostBody::Cancel, deadline)
    }

    fn event(&self, deadline: &Deadline, phase: impl FnOnce() -> Phase) -> Result<Event> {
        match self.call.next(deadline) {
            Ok(Ok(Item::Output(stream, data))) => Ok(Event::Output { stream, data }),
            Ok(Ok(Item::Ended(exit))) => Ok(Event::Ended(exit)),
            Ok(Err(End::Exit(exit))) => Ok(Event::Exit(exit)),
            // No other answers are accepted for a command.
            Ok(Ok(Item::Entry(_)) | Err(End::Done | End::Failed(_))) => {
                let loss = Loss::Unexpected { message: "this", place: "while a command runs" };
                Err(Error::Lost { phase: phase(), source: Arc::new(loss) })
            }
            Err(halt) => Err(halt.during(phase())),
        }
    }

    /// For a command that has ended this is no error: it could have done so just now.
    fn control(&self, body: HostBody<'_>, deadline: Instant) -> Result<()> {
        let sent = self.call.send(body, &Deadline::new(deadline));
        sent.map_err(|halt| halt.during(Phase::Control { program: self.program.clone() }))
    }

    fn finish(&self) -> Phase {
        Phase::Finish { program: self.program.clone() }
    }

    fn input_closed(&self) -> Error {
        Error::InputClosed { program: self.program.clone() }
    }
}
