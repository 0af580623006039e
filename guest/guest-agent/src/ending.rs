//! What the CLI's end means for the run.

use std::time::Duration;

use guest_common::chain;
use process::Status;

use crate::conversation::{Cause, Report};
use crate::limit::Overdue;
use crate::{Error, Outcome};

/// Why a run failed, and what it exits with.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    /// Not masked yet.
    pub(crate) text: String,
}

/// How a run, or a part of it, ended.
pub(crate) type Ending = Result<(), Failure>;

impl Failure {
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let code = match error.downcast_ref() {
            Some(Error::Signal { signal }) => of_signal(*signal),
            Some(Error::Agent { code, .. }) => *code,
            _ => 1,
        };
        Self { code, text: chain(error) }
    }
}

impl Failure {
    /// With what else was wrong, if it is not said already.
    pub(crate) fn because(mut self, reason: Option<&str>) -> Self {
        if let Some(reason) = reason.filter(|reason| !self.text.contains(reason)) {
            self.text.push_str(": ");
            self.text.push_str(reason);
        }
        self
    }
}

impl From<Failure> for Outcome {
    fn from(failure: Failure) -> Self {
        Outcome { exit_code: failure.code, error: Some(failure.text), ..Outcome::default() }
    }
}

impl Outcome {
    /// With this ending.
    pub(crate) fn with(self, ending: Ending) -> Self {
        match ending {
            Ok(()) => self,
            Err(Failure { code, text }) => Self { exit_code: code, error: Some(text), ..self },
        }
    }
}

/// What a conversation's end means.
pub(crate) fn of(report: &Report, tool_limit: Duration) -> Ending {
    let code = match report.status {
        Status::Exited(code) => code,
        Status::Signalled { signal, .. } => of_signal(i32::from(signal)),
    };
    let complaint = report.verdict.as_ref().filter(|verdict| verdict.is_error);
    let agent = |code| {
        let said = complaint.and_then(|verdict| verdict.text.clone());
        Error::Agent { code, said: said.unwrap_or_else(|| report.last_words.clone()) }
    };
    let error = match &report.cause {
        Some(Cause::Signal(signal)) => Error::Signal { signal: *signal },
        Some(Cause::Failed(text)) => return Err(Failure { code: 1, text: text.clone() }),
        Some(Cause::Overdue(Overdue::Tool(tool))) => {
            Error::Tool { tool: tool.clone(), seconds: tool_limit.as_secs() }
        }
        // It was done before it was ended, so what it said counts.
        Some(Cause::Overdue(Overdue::Farewell)) if complaint.is_some() => agent(1),
        Some(Cause::Overdue(Overdue::Farewell)) => return Ok(()),
        None if code == 0 => return Ok(()),
        None => agent(code),
    };
    Err(Failure::of(&error))
}

fn of_signal(signal: i32) -> u8 {
    128u8.saturating_add(u8::try_from(signal).unwrap_or(0))
}
