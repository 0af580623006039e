//! The platform of a state folder, as commands meet it.
//!
//! What it says comes back as errors for people here: the operator asked for a job, and does not
//! want to hear of statuses and codes.

mod error;
mod watch;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use platform::{Client, Job, RunId};
use serde::Serialize;

pub(crate) use self::error::Error;
pub(crate) use self::watch::{Patience, Watch};
use crate::error::Result;
use crate::interrupt::{FirstSignal, Interrupt};
use crate::options::Global;
use crate::output::Output;
use crate::signal;

/// A platform that somebody serves, or will.
pub(crate) struct OperatorClient<'a> {
    state: &'a Path,
    is_quiet: bool,
    client: Client,
}

impl<'a> OperatorClient<'a> {
    pub(crate) fn of(global: &'a Global) -> Self {
        let state = &global.state_dir;
        Self { state, is_quiet: global.quiet, client: Client::new(state) }
    }

    /// Asks it something.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(&Client) -> platform::Result<T>) -> Result<T> {
        Ok(ask(&self.client).map_err(|error| Error::explain(error, self.state))?)
    }

    /// A job by its id, or by the beginning of it.
    pub(crate) fn job(&self, id: &str) -> Result<Job> {
        self.ask(|client| client.job(id))
    }

    /// Does something that may wait for a job as long as it takes, and for a platform that is started
    /// anew. A signal ends the wait, and not the job.
    pub(crate) fn attend<T>(
        &self,
        run: RunId,
        patience: &Patience,
        work: impl FnOnce(&Watch<'_>, &mut Output) -> Result<T>,
    ) -> Result<T> {
        let signals = signal::block()?;
        let client = self.client.clone();
        let interrupt =
            Interrupt::start(signals, FirstSignal::Forward, Arc::new(move || client.cut()))?;
        let mut output = Output::open()?.cancel_on(interrupt.cancelled());
        let watch = Watch { operator: self, called_off: interrupt.cancelled(), patience };
        match interrupt.or_interrupted(work(&watch, &mut output)) {
            Err(crate::error::Error::Interrupted { signal }) => {
                Err(Error::Left { run, signal }.into())
            }
            Err(crate::error::Error::Operator(source)) if source.is_lost() => {
                Err(Error::Lost { run, source: Box::new(source) }.into())
            }
            other => other,
        }
    }
}

/// A JSON text in one line: members that came from elsewhere may have been written in several.
pub(crate) fn json_line(value: &impl Serialize) -> Result<String> {
    let json = serde_json::to_string(value);
    let json = json.map_err(|source| crate::error::Error::Json { source })?;
    // In JSON they can only be blanks between its parts.
    Ok(json.replace(['\n', '\r'], " ") + "\n")
}

/// Prints JSON for programs that read a single answer.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(value);
    print(&(json.map_err(|source| crate::error::Error::Json { source })? + "\n"))
}

/// Prints a result of several lines.
pub(crate) fn print(text: &str) -> Result<()> {
    let written = Output::open()?.stdout().write_all(text.as_bytes());
    written.map_err(|source| crate::error::Error::Output { source })
}
