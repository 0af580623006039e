//! Whether a run failed, and with which exit code and error text.

use std::time::Duration;

use base::error::chain;
use contract::AgentOutcome;
use process::Status;

use crate::Error;
use crate::conversation::{Cause, CliReport};
use crate::limit::Overdue;

/// Why a run failed, and its exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Not masked yet.
    pub(crate) text: String,
}

/// The result of a run, or of one phase of it.
pub(crate) type RunResult = Result<(), Failure>;

impl Failure {
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let code = match error.downcast_ref() {
            Some(Error::Signal { signal }) => exit_code_of_signal(*signal),
            Some(Error::Agent { code, .. }) => *code,
            _ => 1,
        };
        Self { code, text: chain(error) }
    }
}

impl Failure {
    /// Appends a reason unless the text has it already.
    pub(crate) fn with_reason(mut self, reason: Option<&str>) -> Self {
        if let Some(reason) = reason.filter(|reason| !self.text.contains(reason)) {
            self.text.push_str(": ");
            self.text.push_str(reason);
        }
        self
    }
}

impl From<Failure> for AgentOutcome {
    fn from(failure: Failure) -> Self {
        Self { exit_code: failure.code, error: Some(failure.text), ..Self::default() }
    }
}

/// The outcome with the exit code and the error of a failure.
pub(crate) fn outcome_of(result: RunResult, outcome: AgentOutcome) -> AgentOutcome {
    match result {
        Ok(()) => outcome,
        Err(Failure { code, text }) => {
            AgentOutcome { exit_code: code, error: Some(text), ..outcome }
        }
    }
}

/// Decides from the CLI's exit status and last events whether the run succeeded.
pub(crate) fn evaluate(report: &CliReport, tool_limit: Duration) -> RunResult {
    let code = match report.status {
        Status::Exited(code) => code,
        Status::Signalled { signal, .. } => exit_code_of_signal(i32::from(signal)),
    };
    let complaint = report.result.as_ref().filter(|result| result.is_error);
    let agent = |code| {
        let said = complaint.and_then(|result| result.text.clone());
        Error::Agent { code, said: said.unwrap_or_else(|| report.stderr_tail.clone()) }
    };
    let error = match &report.cause {
        Some(Cause::Signal(signal)) => Error::Signal { signal: *signal },
        Some(Cause::Failed(text)) => return Err(Failure { code: 1, text: text.clone() }),
        Some(Cause::Overdue(Overdue::Tool(tool))) => {
            Error::Tool { tool: tool.clone(), seconds: tool_limit.as_secs() }
        }
        // The CLI reported its result before it was terminated, so the result counts.
        Some(Cause::Overdue(Overdue::Exit)) if complaint.is_some() => agent(1),
        Some(Cause::Overdue(Overdue::Exit)) => return Ok(()),
        None if code == 0 => return Ok(()),
        None => agent(code),
    };
    Err(Failure::of(&error))
}

fn exit_code_of_signal(signal: i32) -> u8 {
    128u8.saturating_add(u8::try_from(signal).unwrap_or(0))
}
