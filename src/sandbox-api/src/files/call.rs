//! One run of guest-files.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use base::event::Event as Wake;
use files_proto::{Code, MAX_REPLY, MAX_REQUEST, PROGRAM, Reply, Request};
use sandbox::{Event, ExecRequest, Execution, Exit, Outcome, Sandbox, Stream, User};

use super::error::{Error, Result, failed};
use crate::wait::{Waiter, try_next};

/// How much of its standard error is kept.
const MAX_STDERR: usize = 4 << 10;

pub(super) struct Call {
    execution: Arc<dyn Execution>,
    waiter: Waiter,
    /// Output that has no end of line yet, or is not parsed yet.
    output: VecDeque<u8>,
    stderr: Vec<u8>,
}

impl Call {
    /// Starts the program and sends the request. Its input stays open. All waits end when `closed` is set.
    pub(super) fn start(
        sandbox: &dyn Sandbox,
        user: Option<User>,
        request: &Request,
        closed: Option<Arc<Wake>>,
        deadline: Instant,
    ) -> Result<Self> {
        let mut line = serde_json::to_vec(request).map_err(|_| Error::Malformed)?;
        line.push(b'\n');
        if line.len() > MAX_REQUEST {
            let message = format!("the request is longer than {MAX_REQUEST} bytes");
            return Err(failed(Code::InvalidArgument, message));
        }
        let argv = vec![PROGRAM.into()];
        let exec = ExecRequest { argv, user, stdin: true, ..ExecRequest::default() };
        let execution: Arc<dyn Execution> = sandbox.exec(&exec, deadline)?.into();
        let waiter = Waiter::new(&*execution, closed)?;
        let call = Self { execution, waiter, output: VecDeque::new(), stderr: Vec::new() };
        if call.execution.has_started() {
            call.write(&line, deadline)?;
        }
        Ok(call)
    }

    /// Writes to the program's input.
    pub(super) fn write(&self, data: &[u8], deadline: Instant) -> Result<()> {
        Ok(self.waiter.write(&*self.execution, data, deadline)?)
    }

    /// Replaces what ends all waits.
    pub(super) fn end_waits_at(&mut self, closed: Arc<Wake>) {
        self.waiter.end_at(closed);
    }

    /// Set when there may be more for [`Call::try_next`].
    pub(super) fn changed(&self) -> &Wake {
        self.waiter.changed()
    }

    pub(super) fn execution(&self) -> &Arc<dyn Execution> {
        &self.execution
    }

    /// Ends the program's input.
    pub(super) fn close_input(&self) -> Result<()> {
        if self.execution.has_started() { Ok(self.execution.close_stdin()?) } else { Ok(()) }
    }

    /// The next reply.
    pub(super) fn next(&mut self, deadline: Option<Instant>) -> Result<Reply> {
        loop {
            if let Some(reply) = self.parse() {
                return reply;
            }
            let event = self.waiter.wait(deadline, || try_next(&*self.execution))?;
            self.take(event)?;
        }
    }

    /// The next reply, if it is there.
    pub(super) fn try_next(&mut self) -> Result<Option<Reply>> {
        self.waiter.changed().clear();
        loop {
            if let Some(reply) = self.parse() {
                return reply.map(Some);
            }
            match try_next(&*self.execution)? {
                Some(event) => self.take(event)?,
                None => return Ok(None),
            }
        }
    }

    /// What the program writes after its replies; nothing at its successful end.
    pub(super) fn content(&mut self, deadline: Instant) -> Result<Vec<u8>> {
        while self.output.is_empty() {
            match self.waiter.wait(Some(deadline), || try_next(&*self.execution))? {
                Event::Output(Stream::Stdout, data) if !data.is_empty() => return Ok(data),
                Event::Exit(Exit { outcome: Outcome::Exited(0), .. }) => break,
                event => self.take(event)?,
            }
        }
        Ok(std::mem::take(&mut self.output).into())
    }

    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Output(Stream::Stdout, data) => self.output.extend(data),
            Event::Output(Stream::Stderr, data) => {
                let room = MAX_STDERR.saturating_sub(self.stderr.len());
                self.stderr.extend(data.into_iter().take(room));
            }
            Event::Ended(_) => {}
            Event::Exit(exit) => return Err(self.end(exit)),
        }
        Ok(())
    }

    /// The first reply of the output, if all of it is there.
    fn parse(&mut self) -> Option<Result<Reply>> {
        let length = self.output.iter().take(MAX_REPLY).position(|byte| *byte == b'\n');
        let Some(length) = length else {
            return (self.output.len() >= MAX_REPLY).then_some(Err(Error::Malformed));
        };
        let line: Vec<u8> = self.output.drain(..=length).collect();
        Some(serde_json::from_slice(&line).map_err(|_| Error::Malformed))
    }

    /// Why there are no more replies.
    fn end(&self, exit: Exit) -> Error {
        if let Outcome::FailedToStart { code, message } = exit.outcome {
            if code != 127 && message.starts_with("no user `") {
                return Error::NoUser { message };
            }
            return Error::NoProgram { program: PROGRAM, reason: message };
        }
        let code = exit.outcome.exit_code();
        let stderr = String::from_utf8_lossy(&self.stderr).trim().escape_debug().to_string();
        Error::EndedEarly { code, stderr }
    }
}
