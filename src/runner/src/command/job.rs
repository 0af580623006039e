//! `runner job`: jobs of the platform that serves the state folder, in whatever process.

mod artifact;
mod cancel;
mod checkpoint;
mod events;
mod given;
mod list;
mod logs;
mod network;
mod prune;
mod reports;
mod show;
mod submit;
mod wait;

use platform::{Job, Status};

use crate::error::Result;
use crate::options::Global;
use crate::output;
use crate::terminal::harmless;

const EXAMPLES: &str = "\
Examples:
  runner job submit --prompt 'fix the build' --artifact .:/home/user/workspace/app --follow
  runner job ls
  runner job events --follow 3f2a
  runner job artifact get 3f2a ./result
  runner job submit --resume 3f2a --prompt 'now add a test' --follow

A job is named by its id, or by four or more of the characters that it begins with. A platform must
serve the state folder: `runner start --local` or `runner serve`.";

/// Submit jobs to the platform, and see what becomes of them
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Submit(Box<submit::Arguments>),
    Ls(list::Arguments),
    Show(show::Arguments),
    Events(events::Arguments),
    Logs(logs::Arguments),
    Network(network::Arguments),
    Cancel(cancel::Arguments),
    Wait(wait::Arguments),
    Artifact(artifact::Arguments),
    Checkpoint(checkpoint::Arguments),
    Prune(prune::Arguments),
}

impl Arguments {
    /// Whether the exit code is the job's.
    pub(crate) fn passes_exit_code_on(&self) -> bool {
        match &self.command {
            Command::Submit(arguments) => arguments.follow,
            Command::Wait(_) => true,
            _ => false,
        }
    }
}

/// Does it.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    match arguments.command {
        Command::Submit(arguments) => submit::run(global, *arguments),
        Command::Ls(arguments) => list::run(global, &arguments),
        Command::Show(arguments) => show::run(global, &arguments),
        Command::Events(arguments) => events::run(global, &arguments),
        Command::Logs(arguments) => logs::run(global, &arguments),
        Command::Network(arguments) => network::run(global, &arguments),
        Command::Cancel(arguments) => cancel::run(global, &arguments),
        Command::Wait(arguments) => wait::run(global, &arguments),
        Command::Artifact(arguments) => artifact::run(global, &arguments),
        Command::Checkpoint(arguments) => checkpoint::run(global, &arguments),
        Command::Prune(arguments) => prune::run(global, &arguments),
    }
}

/// What this process returns for a job that has ended.
fn exit_code(job: &Job) -> u8 {
    match job.exit_code.map(u8::try_from) {
        _ if job.status == Status::Completed => 0,
        _ if job.timed_out => 124,
        Some(Ok(code)) if code != 0 => code,
        // It was cancelled before it ran, its runner was lost, or its code is none.
        _ => 125,
    }
}

/// Tells why a job goes on waiting, if it does: whoever waits for it should know.
fn tell_waiting(waits: Option<&str>, global: &Global) {
    if let Some(reason) = waits.filter(|_| !global.quiet) {
        output::remark(one_line(&format!("runner: the job waits: {reason}")));
    }
}

/// Where a job is, in a few words.
fn describe(job: &Job) -> String {
    let mut text = word(job.status).to_owned();
    match job.exit_code {
        Some(code) if job.status.is_final() && code != 0 => {
            text.push_str(&format!(", exit code {code}"));
        }
        _ if job.waits.is_some() => text.push_str(", no runner"),
        _ if job.cancel_requested && !job.status.is_final() => text.push_str(", to be cancelled"),
        _ => {}
    }
    if job.timed_out {
        text.push_str(", time up");
    }
    text
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::Running => "running",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}

/// How long a job ran, or has run by now; in milliseconds.
fn took_ms(job: &Job) -> Option<i64> {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    let end = job.finished_ms.unwrap_or(i64::try_from(now).unwrap_or(i64::MAX));
    Some(end.saturating_sub(job.started_ms?).max(0))
}

/// `0.4s`, `12s`, `3m05s`, `1h02m`.
fn time(ms: i64) -> String {
    match ms / 1000 {
        0..10 => format!("{:.1}s", ms as f64 / 1000.0),
        seconds @ 10..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A text of a guest's or another program's, in one line.
fn one_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn job(status: &str, more: serde_json::Value) -> Job {
        let mut job = serde_json::json!({
            "runId": "01234567-89ab-cdef-0123-456789abcdef", "status": status, "attempt": 1,
            "agent": "claude-code", "prompt": "do it\nwell", "createdMs": 1_000, "startedMs": 2_000,
            "finishedMs": 14_500, "cancelRequested": false, "timedOut": false, "events": 3,
            "missingEvents": 0,
        });
        for (key, value) in more.as_object().unwrap() {
            job[key] = value.clone();
        }
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn the_exit_code_is_the_jobs_where_it_has_one() {
        let code = |status, more| exit_code(&job(status, more));
        assert_eq!(code("completed", serde_json::json!({"exitCode": 0})), 0);
        assert_eq!(code("failed", serde_json::json!({"exitCode": 7})), 7);
        assert_eq!(code("cancelled", serde_json::json!({"exitCode": 143})), 143);
        assert_eq!(code("failed", serde_json::json!({"exitCode": 137, "timedOut": true})), 124);
    }

    #[test]
    fn a_job_that_failed_without_one_is_never_taken_for_a_success() {
        let code = |status, more| exit_code(&job(status, more));
        assert_eq!(code("cancelled", serde_json::json!({})), 125);
        assert_eq!(code("failed", serde_json::json!({"exitCode": 0})), 125);
        assert_eq!(code("failed", serde_json::json!({"exitCode": -1})), 125);
        assert_eq!(code("failed", serde_json::json!({"exitCode": 256})), 125);
    }

    #[test]
    fn where_a_job_is_takes_a_few_words() {
        let told = |status, more| describe(&job(status, more));
        assert_eq!(told("completed", serde_json::json!({"exitCode": 0})), "completed");
        assert_eq!(told("failed", serde_json::json!({"exitCode": 3})), "failed, exit code 3");
        assert_eq!(
            told("running", serde_json::json!({"cancelRequested": true})),
            "running, to be cancelled"
        );
        assert_eq!(told("failed", serde_json::json!({"timedOut": true})), "failed, time up");
    }

    #[test]
    fn a_job_that_nobody_takes_does_not_look_like_one_that_waits_for_its_turn() {
        assert_eq!(describe(&job("queued", serde_json::json!({}))), "queued");
        let stuck = serde_json::json!({"waits": "no runner is there"});
        assert_eq!(describe(&job("queued", stuck)), "queued, no runner");
    }

    #[test]
    fn times_are_as_exact_as_they_are_interesting() {
        let times = [400, 12_300, 185_000, 3_720_000].map(time);
        assert_eq!(times, ["0.4s", "12s", "3m05s", "1h02m"]);
    }
}
