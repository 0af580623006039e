//! One run of guest-files.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use files_proto::{Code, MAX_REPLY, MAX_REQUEST, PROGRAM, Reply, Request};
use sandbox::{Event, ExecRequest, Execution, Exit, Outcome, Sandbox, Stream, User};

use super::error::{Error, Result, failed};

/// How much of its standard error is kept.
const MAX_STDERR: usize = 4 << 10;

pub(super) struct Call {
    execution: Arc<dyn Execution>,
    /// Output that has no end of line yet, or is not parsed yet.
    output: VecDeque<u8>,
    stderr: Vec<u8>,
}

impl Call {
    /// Starts the program and sends the request. Its input stays open.
    pub(super) fn start(
        sandbox: &dyn Sandbox,
        user: Option<User>,
        request: &Request,
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
        let call = Self { execution, output: VecDeque::new(), stderr: Vec::new() };
        if call.execution.has_started() {
            call.execution.write_stdin(&line, Some(deadline))?;
        }
        Ok(call)
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
            match self.execution.next(deadline)? {
                Event::Output(Stream::Stdout, data) => self.output.extend(data),
                Event::Output(Stream::Stderr, data) => {
                    let room = MAX_STDERR.saturating_sub(self.stderr.len());
                    self.stderr.extend(data.into_iter().take(room));
                }
                Event::Ended(_) => {}
                Event::Exit(exit) => return Err(self.end(exit)),
            }
        }
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
