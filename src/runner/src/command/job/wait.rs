//! `runner job wait`: waits until a job has ended.

use std::io::Write as _;
use std::time::{Duration, Instant};

use platform::Job;

use super::summary::{describe, exit_code, one_line, print_waiting_reason};
use crate::error::{Error, Result};
use crate::operator::{OperatorClient, Reconnect, json_line};
use crate::options::Global;
use crate::output;

const CODES: &str = "\
The exit code is the job's; it is 124 if the job timed out, and 125 if the job ended without an exit
code, or if waiting failed. Ctrl-C ends the wait, not the job.";

/// Wait until a job has ended
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Arguments {
    /// Maximum time to wait, like 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse)]
    timeout: Option<Duration>,

    /// Print the ended job as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    reconnect: Reconnect,

    /// Id of the job, or a unique prefix
    job: String,
}

/// Returns the job's exit code.
pub(super) fn run(operator: &OperatorClient<'_>, arguments: &Arguments) -> Result<u8> {
    let global = operator.global;
    let job = operator.job(&arguments.job)?;
    let run = job.run_id;
    print_waiting_reason(job.waits.as_deref(), global);
    let deadline = arguments.timeout.and_then(|time| Instant::now().checked_add(time));
    let job = operator.with_retries(run, &arguments.reconnect, |retrying, output| {
        let job = retrying.ask_by(deadline, |client| client.wait(run, deadline))?;
        if arguments.json {
            let line = json_line(&job)?;
            output
                .stdout()
                .write_all(line.as_bytes())
                .map_err(|source| Error::Output { source })?;
        }
        Ok(job)
    })?;
    Ok(print_outcome(&job, global))
}

/// Prints remarks on a job that has ended; returns the exit code.
pub(super) fn print_outcome(job: &Job, global: &Global) -> u8 {
    let code = exit_code(job);
    if !global.quiet {
        remarks(job, code).iter().for_each(|text| output::remark(one_line(text)));
    }
    code
}

/// The failure, the warnings, and how to use the partial checkpoint of a job.
fn remarks(job: &Job, code: u8) -> Vec<String> {
    let run = job.run_id;
    let mut remarks = Vec::new();
    if code != 0 {
        let error = job.error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
        remarks.push(format!("job {run} {}{error}", describe(job)));
    }
    remarks.extend(job.warnings.iter().map(|warning| format!("runner: warning: {warning}")));
    if job.checkpoint_partial {
        let resume = job.session_id.as_ref().map_or_else(String::new, |_| {
            format!("; resume it: `runner job submit --resume {run} …`")
        });
        remarks.push(format!(
            "runner: a partial checkpoint is kept; copy it: `runner job artifact get {run} DIR`{resume}"
        ));
    }
    remarks
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::summary::tests::job;
    use super::*;

    #[test]
    fn a_success_prints_its_warnings_only() {
        let warned = job("completed", json!({"exitCode": 0, "warnings": ["a is not kept"]}));
        assert_eq!(remarks(&warned, 0), ["runner: warning: a is not kept"]);
        assert!(remarks(&job("completed", json!({"exitCode": 0})), 0).is_empty());
    }

    #[test]
    fn a_failure_with_a_partial_checkpoint_names_the_commands_that_use_it() {
        let failed = job(
            "failed",
            json!({"exitCode": 3, "error": "it broke", "checkpointPartial": true, "sessionId": "s"}),
        );
        let remarks = remarks(&failed, 3);
        assert!(remarks[0].ends_with(" failed, exit code 3: it broke"), "{remarks:?}");
        assert!(remarks[1].contains("--resume 01234567-"), "{remarks:?}");
    }
}
