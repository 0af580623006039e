//! Runners at which jobs do not start, drained runners, and what the operator does about them.

use std::time::Duration;

use platform::{RunId, Runner, Status, Submission};
use serde_json::{Value, json};

use crate::harness::{Guest, Host, Reply};
use crate::jobs::{RUNNER, heartbeat};
use crate::placement::OTHER;

const THIRD: &str = "33333333-2222-4333-8444-555555555555";

/// A platform that answers a poll soon, and a runner of it.
fn host() -> Host {
    let host = Host::with(|config| config.poll_hold = Duration::from_millis(50));
    beat(&host, RUNNER);
    host
}

fn beat(host: &Host, runner: &str) {
    let mut beat = heartbeat(runner);
    beat["runnerName"] = json!(format!("host-{}", &runner[..1]));
    beat["admittableProfiles"] = json!(["default"]);
    host.post_runner("heartbeat", &beat).ok();
}

/// Claims a job for a runner.
fn claim<'a>(host: &'a Host, runner: &str, run: RunId) -> Guest<'a> {
    let token = host.platform().runner_token();
    let headers = format!("Authorization: Bearer {token}\r\nX-Client-Session-Id: {runner}\r\n");
    let context =
        host.send("POST", &format!("/api/runners/jobs/{run}/claim"), &headers, b"{}").ok();
    let token = context["sandboxToken"].as_str().unwrap().to_owned();
    Guest { host, run, token, context }
}

/// A job does not start at a runner.
fn fail(host: &Host, runner: &str, run: RunId) -> Reply {
    let failed = json!({"exitCode": 1, "error": "cannot start the VM: no /dev/kvm"});
    claim(host, runner, run).post("complete", failed)
}

/// Several jobs do not start at the runner.
fn fail_jobs(host: &Host, count: usize) {
    (0..count).for_each(|_| drop(fail(host, RUNNER, host.submit("x")).ok()));
}

fn polled(host: &Host, runner: &str) -> Value {
    host.poll(runner).ok()["job"]["runId"].clone()
}

fn listed(host: &Host, runner: &str) -> Runner {
    let all = host.client().runners().unwrap();
    all.into_iter().find(|one| one.runner_id.to_string() == runner).unwrap()
}

#[test]
fn a_runner_at_which_three_jobs_in_a_row_do_not_start_gets_no_more() {
    let host = host();
    let runs = [0; 3].map(|_| host.submit("x"));
    runs.iter().for_each(|run| drop(fail(&host, RUNNER, *run).ok()));
    let next = host.submit("y");

    let offered = polled(&host, RUNNER);
    let unhealthy = listed(&host, RUNNER).unhealthy.unwrap();

    assert_eq!(offered, Value::Null);
    let text = "3 jobs in a row did not start; the last: cannot start the VM: no /dev/kvm";
    assert_eq!(unhealthy.reason, text);
    assert!((1..=60_000).contains(&unhealthy.trial_in_ms), "{unhealthy:?}");
    let waits = host.job(next).waits.unwrap();
    assert!(waits.contains("drained or unhealthy"), "{waits}");
    assert_eq!(host.job(runs[0]).status, Status::Failed);
}

#[test]
fn a_cleared_runner_gets_jobs_at_once() {
    let host = Host::start();
    beat(&host, RUNNER);
    fail_jobs(&host, 3);
    let run = host.submit("y");

    let offered = std::thread::scope(|scope| {
        let held = scope.spawn(|| polled(&host, RUNNER));
        host.client().clear("host-1").unwrap();
        held.join().unwrap()
    });

    assert_eq!(offered, json!(run));
    assert_eq!(listed(&host, RUNNER).unhealthy, None);
}

#[test]
fn a_start_between_failures_is_a_success() {
    let host = host();
    fail_jobs(&host, 2);
    let good = claim(&host, RUNNER, host.submit("x"));
    good.post("heartbeat", json!({})).ok();
    // The agent's own failure says nothing about the runner.
    good.complete(1).ok();
    fail_jobs(&host, 2);

    assert_eq!(listed(&host, RUNNER).unhealthy, None);
    assert_eq!(polled(&host, RUNNER), Value::Null);
}

#[test]
fn a_cancelled_job_that_did_not_start_counts_for_nothing() {
    let host = host();
    (0..3).for_each(|_| {
        let guest = claim(&host, RUNNER, host.submit("x"));
        host.client().cancel(guest.run).unwrap();
        guest.complete(1).ok();
    });

    assert_eq!(listed(&host, RUNNER).unhealthy, None);
}

#[test]
fn a_job_that_does_not_start_is_queued_again_for_another_runner() {
    let host = host();
    beat(&host, OTHER);
    let run = host.submit("x");

    let reply = fail(&host, RUNNER, run).ok();

    assert_eq!(reply, json!({"success": true, "status": "failed"}));
    assert_eq!(host.job(run).status, Status::Queued);
    assert_eq!(polled(&host, RUNNER), Value::Null);
    assert_eq!(polled(&host, OTHER), json!(run));
    claim(&host, OTHER, run).complete(0).ok();
    assert_eq!((host.job(run).status, host.job(run).attempt), (Status::Completed, 2));
}

#[test]
fn a_job_that_is_queued_again_still_has_its_secrets() {
    let host = host();
    beat(&host, OTHER);
    let secrets = [("S".to_owned(), "hunter22".to_owned())].into();
    let submission = Submission { prompt: "x".into(), secrets, ..Submission::default() };
    let run = host.client().submit(&submission).unwrap().run_id;

    let guest = claim(&host, RUNNER, run);
    let failed = json!({"exitCode": 1, "error": "cannot mount hunter22"});
    guest.post("complete", failed.clone()).ok();
    // Its reply was lost.
    let again = guest.post("complete", failed).ok();

    assert_eq!(again["status"], "failed");
    assert_eq!(claim(&host, OTHER, run).context["environment"]["S"], "hunter22");
}

#[test]
fn a_job_that_starts_nowhere_fails_and_no_runner_is_blamed() {
    let host = host();
    let runners = [RUNNER, OTHER, THIRD];
    runners.iter().for_each(|runner| beat(&host, runner));
    let runs = [0; 4].map(|_| host.submit("x"));

    for run in runs {
        runners.iter().for_each(|runner| drop(fail(&host, runner, run).ok()));
    }

    assert_eq!(runs.map(|run| host.job(run).status), [Status::Failed; 4]);
    assert_eq!(host.job(runs[0]).attempt, 3);
    assert_eq!(runners.map(|runner| listed(&host, runner).unhealthy), [None, None, None]);
}

#[test]
fn the_reason_has_no_secret() {
    let host = host();
    (0..3).for_each(|_| {
        let secrets = [("S".to_owned(), "hunter22".to_owned())].into();
        let submission = Submission { prompt: "x".into(), secrets, ..Submission::default() };
        let guest = claim(&host, RUNNER, host.client().submit(&submission).unwrap().run_id);
        guest.post("complete", json!({"exitCode": 1, "error": "cannot mount hunter22"})).ok();
    });

    let reason = listed(&host, RUNNER).unhealthy.unwrap().reason;
    assert!(reason.ends_with("the last: cannot mount ***"), "{reason}");
}

#[test]
fn a_drained_runner_ends_its_jobs_and_gets_no_more_also_after_a_restart() {
    let mut host = host();
    let running = claim(&host, RUNNER, host.submit("x"));
    let drained = host.client().drain("host-1").unwrap();
    let run = host.submit("y");
    running.complete(0).ok();
    let ended = host.job(running.run).status;
    let before = polled(&host, RUNNER);
    host.restart();
    beat(&host, RUNNER);
    let after = polled(&host, RUNNER);
    host.client().undrain("host-1").unwrap();

    assert!(drained.drained);
    assert_eq!(ended, Status::Completed);
    assert_eq!([before, after], [Value::Null, Value::Null]);
    assert_eq!(polled(&host, RUNNER), json!(run));
}

#[test]
fn an_unknown_runner_and_an_ambiguous_one_are_rejected() {
    let host = host();
    let absent = host.client().drain("absent").unwrap_err().to_string();
    let mut twin = heartbeat(OTHER);
    twin["runnerName"] = json!("host-1");
    host.post_runner("heartbeat", &twin).ok();
    let ambiguous = host.client().drain("host-1").unwrap_err().to_string();

    assert!(absent.contains("no runner `absent`"), "{absent}");
    assert!(ambiguous.contains("several runners"), "{ambiguous}");
    assert!(host.client().drain(RUNNER).unwrap().drained);
}
