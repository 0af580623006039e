//! Claims that race, replies that are lost, runners and platforms that die.

use std::time::Duration;

use platform::{Orphan, Status};
use serde_json::{Value, json};

use crate::harness::{Guest, Host, done, refusal, soon, take, wanted};
use crate::jobs::{RUNNER, heartbeat};

/// Claims as a runner that repeats itself.
fn claim(host: &Host, run: platform::RunId, request: &str) -> (u16, Value) {
    let token = host.platform().runner_token();
    let headers = format!("Authorization: Bearer {token}\r\nX-Client-Request-Id: {request}\r\n");
    let reply = host.send("POST", &format!("/api/runners/jobs/{run}/claim"), &headers, b"{}");
    (reply.status, serde_json::from_slice(&reply.body).unwrap())
}

#[test]
fn one_of_two_racing_runners_gets_the_job() {
    let host = Host::start();
    let run = host.submit("x");

    let mut statuses = std::thread::scope(|scope| {
        let racers = [0; 8].map(|_| {
            scope.spawn(|| host.post_runner(&format!("jobs/{run}/claim"), &json!({})).status)
        });
        racers.map(|racer| racer.join().unwrap())
    });

    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
}

#[test]
fn a_repeated_claim_gets_the_same_context() {
    let host = Host::start();
    let run = host.submit("x");

    let first = claim(&host, run, "aaaa");
    let again = claim(&host, run, "aaaa");
    let other = claim(&host, run, "bbbb");

    assert_eq!(first.0, 200);
    assert_eq!(again, first);
    assert_eq!(other.0, 409);
    assert_eq!(host.job(run).attempt, 1);
}

#[test]
fn a_repeated_claim_after_a_crash_gets_a_valid_token() {
    let mut host = Host::start();
    let run = host.submit("x");
    let first = claim(&host, run, "aaaa");
    host.restart();

    let again = claim(&host, run, "aaaa");

    assert_eq!(again, first);
    let token = again.1["sandboxToken"].as_str().unwrap().to_owned();
    let guest = Guest { host: &host, run, token, context: Value::Null };
    guest.complete(0).ok();
}

#[test]
fn a_queued_job_survives_a_crash() {
    let mut host = Host::start();
    let run = host.submit("x");

    host.restart();

    assert_eq!(take(&host.source()).run_id, run);
}

#[test]
fn a_job_of_a_dead_process_is_an_orphan_and_can_be_given_back() {
    let mut host = Host::start();
    let run = host.submit("x");
    let old = take(&host.source());
    host.restart();
    let source = host.source();

    assert_eq!(source.orphans().unwrap(), [Orphan { run_id: run, attempt: 1 }]);
    source.give_back(run, 1).unwrap();
    let new = take(&source);

    assert_eq!((new.run_id, new.attempt), (run, 2));
    assert_eq!(source.orphans().unwrap(), []);
    let token = old.context["sandboxToken"].as_str().unwrap().to_owned();
    let late = Guest { host: &host, run, token, context: Value::Null };
    assert_eq!(late.complete(0).refused(), refusal(403, "ATTEMPT_SUPERSEDED"));
    assert_eq!(late.events(&[0]).refused(), refusal(403, "ATTEMPT_SUPERSEDED"));
    assert_eq!(source.complete(&new, done(0)).unwrap().status, Status::Completed);
}

#[test]
fn a_job_without_heartbeats_is_handed_out_again() {
    let host = Host::with(|config| config.lease = Duration::from_millis(30));
    let source = host.source();
    let lost = host.running();

    let offer = source.next(&wanted(), soon()).unwrap().unwrap();

    assert_eq!(offer.run_id, lost.run);
    assert_eq!(lost.complete(0).refused(), refusal(403, "ATTEMPT_SUPERSEDED"));
    assert_eq!(source.claim(lost.run).unwrap().unwrap().attempt, 2);
}

#[test]
fn a_job_that_is_lost_too_often_fails() {
    let host = Host::with(|config| config.attempts = 2);
    let source = host.source();
    let run = host.submit("x");

    source.give_back(run, take(&source).attempt).unwrap();
    source.give_back(run, take(&source).attempt).unwrap();

    let job = host.job(run);
    assert_eq!((job.status, job.attempt), (Status::Failed, 2));
    assert_eq!(job.error.unwrap(), "attempt 2 was lost: its runner gave it back");
}

#[test]
fn a_lost_attempt_of_a_cancelled_job_is_not_retried() {
    let host = Host::start();
    let source = host.source();
    let run = host.submit("x");
    let attempt = take(&source).attempt;
    host.client().cancel(run).unwrap();

    source.give_back(run, attempt).unwrap();

    assert_eq!(host.job(run).status, Status::Cancelled);
}

#[test]
fn giving_back_an_old_attempt_does_not_disturb_the_new_one() {
    let host = Host::start();
    let source = host.source();
    let run = host.submit("x");
    source.give_back(run, take(&source).attempt).unwrap();
    let new = take(&source);

    source.give_back(run, 1).unwrap();

    assert_eq!(source.complete(&new, done(0)).unwrap().status, Status::Completed);
}

#[test]
fn jobs_of_a_source_count_as_alive_while_it_exists() {
    let host = Host::with(|config| config.lease = Duration::from_millis(30));
    let (source, other) = (host.source(), host.source());
    let run = host.submit("x");
    take(&source);

    let while_it_lives =
        other.next(&wanted(), std::time::Instant::now() + Duration::from_millis(120)).unwrap();
    drop(source);
    let afterwards = other.next(&wanted(), soon()).unwrap();

    assert_eq!(while_it_lives, None);
    assert_eq!(afterwards.unwrap().run_id, run);
}

#[test]
fn a_claim_of_an_unknown_job_is_rejected() {
    let host = Host::start();
    let absent = "00000000-0000-4000-8000-000000000000";

    assert_eq!(host.post_runner(&format!("jobs/{absent}/claim"), &json!({})).status, 404);
    assert_eq!(host.post_runner("jobs/what/claim", &json!({})).status, 400);
}

#[test]
fn a_lost_attempt_is_reported_to_its_runner_until_it_claims_the_job_again() {
    let host = Host::start();
    let source = host.source();
    let run = host.submit("x");
    let claim = || {
        let token = host.platform().runner_token();
        let headers = format!("Authorization: Bearer {token}\r\nX-Client-Session-Id: {RUNNER}\r\n");
        host.send("POST", &format!("/api/runners/jobs/{run}/claim"), &headers, b"{}").ok();
    };
    let told = |runner| host.post_runner("heartbeat", &heartbeat(runner)).ok();
    claim();

    let before = told(RUNNER);
    source.give_back(run, 1).unwrap();
    let lost = told(RUNNER);
    let other = told("99999999-2222-4333-8444-555555555555");
    claim();
    let anew = told(RUNNER);

    assert_eq!(before, json!({"ok": true}));
    assert_eq!(lost, json!({"ok": true, "cancelledRunIds": [run]}));
    assert_eq!(other, json!({"ok": true}));
    assert_eq!(anew, json!({"ok": true}));
    assert_eq!(source.cancelled().unwrap(), []);
}

#[test]
fn a_restarted_runner_gets_no_lost_attempts_of_its_previous_process() {
    let host = Host::start();
    let run = host.submit("x");
    let token = host.platform().runner_token();
    let headers = format!("Authorization: Bearer {token}\r\nX-Client-Session-Id: {RUNNER}\r\n");
    host.post_runner("heartbeat", &heartbeat(RUNNER)).ok();
    host.send("POST", &format!("/api/runners/jobs/{run}/claim"), &headers, b"{}").ok();
    host.source().give_back(run, 1).unwrap();
    let mut anew = heartbeat(RUNNER);
    anew["snapshotGeneration"] = json!(2);

    assert_eq!(host.post_runner("heartbeat", &anew).ok(), json!({"ok": true}));
}

#[test]
fn a_source_lists_a_given_up_job_as_cancelled() {
    let host = Host::with(|config| config.cancel_grace = Duration::from_millis(10));
    let source = host.source();
    let run = host.submit("x");
    take(&source);
    host.client().cancel(run).unwrap();
    host.client().wait(run, Some(soon())).unwrap();

    // It may still have the VM.
    assert_eq!(source.cancelled().unwrap(), [run]);
    assert_eq!(host.source().cancelled().unwrap(), []);
}
