//! `runner job wait`: waits for a job's end.

use std::io::Write as _;
use std::time::{Duration, Instant};

use control::Job;

use super::{describe, exit_code, one_line, tell_waiting};
use crate::error::{Error, Result};
use crate::options::Global;
use crate::output;
use crate::platform::{Patience, Platform, json_line};
use crate::value;

const CODES: &str = "\
The exit code is the job's; 124 if its time was up, and 125 if it ended without an exit code, or if
waiting failed. Ctrl-C ends the wait and not the job.";

/// Wait until a job has ended
#[derive(Debug, clap::Args)]
#[command(after_help = CODES)]
pub(super) struct Arguments {
    /// How long at most, like 30s or 5m
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    timeout: Option<Duration>,

    /// Print the job as JSON when it has ended, for programs
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    patience: Patience,

    /// Its id, or the beginning of it
    job: String,
}

/// Does it; returns the job's exit code.
pub(super) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let platform = Platform::of(global);
    let job = platform.job(&arguments.job)?;
    let run = job.run_id;
    tell_waiting(job.waits.as_deref(), global);
    let deadline = arguments.timeout.and_then(|time| Instant::now().checked_add(time));
    let job = platform.attend(run, &arguments.patience, |watch, output| {
        let job = watch.ask_by(deadline, |client| client.wait(run, deadline))?;
        if arguments.json {
            let line = json_line(&job)?;
            output
                .stdout()
                .write_all(line.as_bytes())
                .map_err(|source| Error::Output { source })?;
        }
        Ok(job)
    })?;
    Ok(conclude(&job, global))
}

/// Says what people want to know of a job that has ended; returns the exit code.
pub(super) fn conclude(job: &Job, global: &Global) -> u8 {
    let code = exit_code(job);
    if code != 0 && !global.quiet {
        let error = job.error.as_deref().map_or_else(String::new, |error| format!(": {error}"));
        output::remark(one_line(&format!("job {} {}{error}", job.run_id, describe(job))));
    }
    code
}
