//! `runner fleet clear`: an unhealthy runner gets jobs again.

use crate::error::Result;
use crate::operator::OperatorClient;

/// Give an unhealthy runner jobs again, before its next trial
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The runner
    #[arg(value_name = "RUNNER")]
    runner: String,
}

pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    operator.ask(|client| client.clear(&arguments.runner))?;
    Ok(0)
}
