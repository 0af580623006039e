//! How the sub-commands describe a job: its exit code, state, duration, and texts on one line.

use platform::{Job, Status};

use crate::options::Global;
use crate::output;
use crate::terminal::harmless;

/// The exit code of this process for a job that has ended.
pub(super) fn exit_code(job: &Job) -> u8 {
    match job.exit_code {
        _ if job.status == Status::Completed => 0,
        _ if job.timed_out => 124,
        Some(code) if code != 0 => code,
        // It was cancelled before it ran, its runner was lost, or its exit code does not fit a byte.
        _ => 125,
    }
}

/// Prints why a job stays queued, if the platform gave a reason.
pub(super) fn print_waiting_reason(waits: Option<&str>, global: &Global) {
    if let Some(reason) = waits.filter(|_| !global.quiet) {
        output::remark(one_line(&format!("runner: the job waits: {reason}")));
    }
}

/// The state of a job in a few words.
pub(super) fn describe(job: &Job) -> String {
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

pub(super) fn word(status: Status) -> &'static str {
    match status {
        Status::Queued => "queued",
        Status::Running => "running",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}

/// For how many milliseconds a job ran, or has been running.
pub(super) fn took_ms(job: &Job) -> Option<i64> {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis();
    let end = job.finished_ms.unwrap_or(i64::try_from(now).unwrap_or(i64::MAX));
    Some(end.saturating_sub(job.started_ms?).max(0))
}

/// `0.4s`, `12s`, `3m05s`, `1h02m`.
pub(super) fn time(ms: i64) -> String {
    match ms / 1000 {
        0..10 => format!("{:.1}s", ms as f64 / 1000.0),
        seconds @ 10..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        seconds => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// A text from a guest or another program on one line, with its control characters escaped.
pub(super) fn one_line(text: &str) -> String {
    harmless(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::command::job) fn job(status: &str, more: serde_json::Value) -> Job {
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
    fn the_exit_code_is_that_of_the_job_if_it_has_one() {
        let code = |status, more| exit_code(&job(status, more));
        assert_eq!(code("completed", serde_json::json!({"exitCode": 0})), 0);
        assert_eq!(code("failed", serde_json::json!({"exitCode": 7})), 7);
        assert_eq!(code("cancelled", serde_json::json!({"exitCode": 143})), 143);
        assert_eq!(code("failed", serde_json::json!({"exitCode": 137, "timedOut": true})), 124);
    }

    #[test]
    fn a_failed_job_without_an_exit_code_exits_125() {
        let code = |status, more| exit_code(&job(status, more));
        assert_eq!(code("cancelled", serde_json::json!({})), 125);
        assert_eq!(code("failed", serde_json::json!({"exitCode": 0})), 125);
        assert_eq!(code("failed", serde_json::json!({"exitCode": -1})), 125);
        assert_eq!(code("failed", serde_json::json!({"exitCode": 256})), 125);
    }

    #[test]
    fn a_jobs_state_is_described_in_a_few_words() {
        let described = |status, more| describe(&job(status, more));
        assert_eq!(described("completed", serde_json::json!({"exitCode": 0})), "completed");
        assert_eq!(described("failed", serde_json::json!({"exitCode": 3})), "failed, exit code 3");
        assert_eq!(
            described("running", serde_json::json!({"cancelRequested": true})),
            "running, to be cancelled"
        );
        assert_eq!(described("failed", serde_json::json!({"timedOut": true})), "failed, time up");
    }

    #[test]
    fn a_queued_job_that_no_runner_can_take_is_marked() {
        assert_eq!(describe(&job("queued", serde_json::json!({}))), "queued");
        let stuck = serde_json::json!({"waits": "no runner is there"});
        assert_eq!(describe(&job("queued", stuck)), "queued, no runner");
    }

    #[test]
    fn durations_have_a_precision_that_fits_their_length() {
        let times = [400, 12_300, 185_000, 3_720_000].map(time);
        assert_eq!(times, ["0.4s", "12s", "3m05s", "1h02m"]);
    }
}
