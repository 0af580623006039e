//! The client of a platform, as the commands use it: of the one that serves the state folder, or of one elsewhere.
//!
//! It turns the HTTP statuses and codes of the platform into errors for the operator.

mod error;
mod remote;
mod retrying_client;

use std::io::Write as _;
use std::sync::Arc;

use platform::{Client, Job, RunId};
use serde::Serialize;

pub(crate) use self::error::Error;
use self::error::Target;
pub(crate) use self::remote::PlatformOptions;
pub(crate) use self::retrying_client::{Reconnect, RetryingClient};
use crate::error::Result;
use crate::interrupt::{FirstSignal, Interrupt};
use crate::options::Global;
use crate::output::Output;
use crate::signal;

/// A client of a platform.
pub(crate) struct OperatorClient<'a> {
    pub(crate) global: &'a Global,
    target: Target,
    client: Client,
}

impl<'a> OperatorClient<'a> {
    /// Of the platform elsewhere that the options name, else of the state folder's.
    pub(crate) fn open(global: &'a Global, options: &PlatformOptions) -> Result<Self> {
        let Some(urls) = options.urls() else {
            let state = &global.state_dir;
            return Ok(Self {
                global,
                target: Target::State(state.clone()),
                client: Client::new(state),
            });
        };
        let client = options.client()?;
        let token_file = options.token_file().map(Into::into).unwrap_or_default();
        Ok(Self { global, target: Target::Elsewhere { urls, token_file }, client })
    }

    /// Sends a request.
    pub(crate) fn ask<T>(&self, ask: impl FnOnce(&Client) -> platform::Result<T>) -> Result<T> {
        Ok(ask(&self.client).map_err(|error| Error::explain(error, &self.target))?)
    }

    /// A job by its id or an unambiguous prefix of it.
    pub(crate) fn job(&self, id: &str) -> Result<Job> {
        self.ask(|client| client.job(id))
    }

    /// Runs `work`, whose requests are repeated while the platform restarts. A signal cancels `work`, not
    /// the job.
    pub(crate) fn with_retries<T>(
        &self,
        run: RunId,
        reconnect: &Reconnect,
        work: impl FnOnce(&RetryingClient<'_>, &mut Output) -> Result<T>,
    ) -> Result<T> {
        let signals = signal::block()?;
        let client = self.client.clone();
        let interrupt =
            Interrupt::start(signals, FirstSignal::Forward, Arc::new(move || client.cut()))?;
        let mut output = Output::open()?.cancel_on(interrupt.cancelled());
        let retrying =
            RetryingClient { operator: self, cancelled: interrupt.cancelled(), reconnect };
        match interrupt.or_interrupted(work(&retrying, &mut output)) {
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
