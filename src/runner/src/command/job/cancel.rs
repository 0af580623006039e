//! `runner job cancel`: asks for the end of jobs.

use crate::error::Result;
use crate::operator::OperatorClient;
use crate::options::Global;
use crate::output;

/// Cancel a job
///
/// One that waits ends at once; one that runs has a while to end well. `runner job wait` waits for
/// that. Prints the job's id.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Its id, or the beginning of it
    job: String,
}

pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let operator = OperatorClient::of(global);
    let run = operator.job(&arguments.job)?.run_id;
    operator.ask(|client| client.cancel(run))?;
    output::line(run)?;
    Ok(0)
}
