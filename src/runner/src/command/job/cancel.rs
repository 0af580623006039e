//! `runner job cancel`: cancels a job.

use crate::error::Result;
use crate::operator::OperatorClient;
use crate::output;

/// Cancel a job
///
/// A queued job ends at once. A running job has a grace period to save its checkpoint; `runner job
/// wait` waits for its end. Prints the job's id.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Id of the job, or a unique prefix
    job: String,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let run = operator.job(&arguments.job)?.run_id;
    operator.ask(|client| client.cancel(run))?;
    output::line(run)?;
    Ok(0)
}
