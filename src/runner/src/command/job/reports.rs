//! The reports of a job's guest and runner, in order: the stored ones, or all until the job's end.

use std::io::Write as _;
use std::time::Duration;

use platform::Telemetry;

use super::summary::print_waiting_reason;
use crate::error::{Error, Result};
use crate::operator::{OperatorClient, Reconnect};
use crate::output::Output;

/// The arguments that select reports.
#[derive(Debug, clap::Args)]
pub(super) struct Reports {
    /// Follow the job until it ends
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    reconnect: Reconnect,

    /// Id of the job, or a unique prefix
    job: String,
}

impl Reports {
    /// Prints the head, then each report as formatted by `text`.
    pub(super) fn print(
        &self,
        operator: &OperatorClient<'_>,
        head: &str,
        text: impl Fn(&Telemetry) -> Result<String>,
    ) -> Result<u8> {
        let job = operator.job(&self.job)?;
        let run = job.run_id;
        if self.follow {
            print_waiting_reason(job.waits.as_deref(), operator.global);
            operator.with_retries(run, &self.reconnect, |retrying, output| {
                write(head, output)?;
                let mut reports = retrying.ask(|client| Ok(client.follow_telemetry(run, 0)))?;
                while let Some(report) = retrying.ask(|_| reports.next().transpose())? {
                    write(&text(&report)?, output)?;
                }
                Ok(())
            })?;
            return Ok(0);
        }
        let (mut output, mut after) = (Output::open()?, 0);
        write(head, &mut output)?;
        loop {
            let page = operator.ask(|client| client.telemetry(run, after, Duration::ZERO))?;
            for report in &page.items {
                write(&text(report)?, &mut output)?;
            }
            if page.is_last || page.items.is_empty() {
                return Ok(0);
            }
            after = page.next;
        }
    }
}

fn write(text: &str, output: &mut Output) -> Result<()> {
    output.stdout().write_all(text.as_bytes()).map_err(|source| Error::Output { source })
}
