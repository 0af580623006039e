//! A job's way from its submission to its end.

use std::time::{Duration, Instant};

use platform::{Error, Status, Submission};
use serde_json::{Value, json};

use crate::harness::{Host, done, refusal, soon, take, wanted};

pub(crate) const RUNNER: &str = "11111111-2222-4333-8444-555555555555";

pub(crate) fn heartbeat(runner: &str) -> Value {
    json!({"runnerId": runner, "runnerName": "r", "group": "a/b", "snapshotGeneration": 1,
        "snapshotSequence": 1, "totalVcpu": 2, "totalMemoryMb": 1024, "maxConcurrent": 1,
        "allocatedVcpu": 1, "allocatedMemoryMb": 512, "runningCount": 1,
        "admittableProfiles": [], "heldSessionStates": [], "mode": "running"})
}

#[test]
fn a_job_is_offered_claimed_and_completed_over_http() {
    let host = Host::start();
    let run = host.submit("say hello");

    let offered = host.poll(RUNNER).ok();
    let guest = host.claim(run);
    guest.post("heartbeat", json!({})).ok();
    let completed = guest.post("complete", json!({"exitCode": 0, "lastEventSequence": 3})).ok();

    assert_eq!(offered, json!({"job": {"runId": run, "reuseKey": run}}));
    assert_eq!(guest.context["prompt"], "say hello");
    assert_eq!(guest.context["cliAgentType"], "claude-code");
    assert_eq!(completed, json!({"success": true, "status": "completed"}));
    assert_eq!(host.job(run).status, Status::Completed);
}

#[test]
fn a_job_is_claimed_and_completed_in_this_process() {
    let host = Host::start();
    let source = host.source();
    let run = host.submit("say hello");

    let job = take(&source);
    let completed = source.complete(&job, done(3)).unwrap();

    assert_eq!((job.run_id, job.attempt), (run, 1));
    assert_eq!(completed.status, Status::Failed);
    assert_eq!(host.job(run).exit_code, Some(3));
}

#[test]
fn the_first_completion_decides_the_outcome() {
    let host = Host::start();
    let guest = host.running();
    guest.complete(0).ok();

    let second = guest.complete(1).ok();

    assert_eq!(second, json!({"success": true, "status": "completed"}));
    assert_eq!(host.job(guest.run).exit_code, Some(0));
}

#[test]
fn a_waiting_runner_in_this_process_is_woken_by_a_submission() {
    let host = Host::start();
    let source = host.source();

    let offer = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| source.next(&wanted(), soon()).unwrap());
        host.submit("now");
        waiting.join().unwrap()
    });

    assert!(offer.is_some());
}

#[test]
fn a_submission_ends_a_long_poll() {
    let host = Host::start();

    let (run, offered) = std::thread::scope(|scope| {
        let held = scope.spawn(|| host.poll(RUNNER));
        (host.submit("now"), held.join().unwrap())
    });

    assert_eq!(offered.ok()["job"]["runId"], json!(run));
}

#[test]
fn a_poll_without_jobs_ends_empty() {
    let host = Host::with(|config| config.poll_hold = Duration::from_millis(10));

    assert_eq!(host.poll(RUNNER).ok(), json!({"job": null}));
}

#[test]
fn a_job_waits_for_a_runner_with_its_profile_that_does_not_exclude_it() {
    let host = Host::with(|config| config.poll_hold = Duration::ZERO);
    let submission =
        Submission { prompt: "x".into(), profile: Some("large".into()), ..Default::default() };
    let run = host.client().submit(&submission).unwrap().run_id;
    let poll = |profile: &str, excluded: &[_]| {
        let body = json!({"runnerId": RUNNER, "group": "a/b", "supportedProfiles": [profile],
            "excludedRunIds": excluded});
        host.post_runner("poll", &body).ok()["job"]["runId"].clone()
    };

    assert_eq!(poll("small", &[]), json!(null));
    assert_eq!(poll("large", &[run]), json!(null));
    assert_eq!(poll("large", &[]), json!(run));
}

#[test]
fn a_submission_repeated_with_its_key_makes_no_second_job() {
    let host = Host::start();
    let mut submission =
        Submission { prompt: "once".into(), key: Some("k".into()), ..Default::default() };
    let first = host.client().submit(&submission).unwrap();

    let second = host.client().submit(&submission).unwrap();
    submission.prompt = "another".into();
    let other = host.client().submit(&submission);

    assert_eq!((first.is_new, second.is_new), (true, false));
    assert_eq!(first.run_id, second.run_id);
    assert!(matches!(other, Err(Error::Answered { status: 409, .. })));
}

#[test]
fn a_queued_job_is_cancelled_at_once() {
    let host = Host::start();
    let run = host.submit("x");

    host.client().cancel(run).unwrap();

    assert_eq!(host.job(run).status, Status::Cancelled);
    assert_eq!(host.post_runner(&format!("jobs/{run}/claim"), &json!({})).status, 409);
}

#[test]
fn a_cancellation_reaches_the_runner_in_this_process() {
    let host = Host::start();
    let source = host.source();
    let run = host.submit("x");
    let job = take(&source);
    while source.notifications().try_recv().is_ok() {}

    host.client().cancel(run).unwrap();

    source.notifications().recv_deadline(soon()).unwrap();
    assert_eq!(source.cancelled().unwrap(), [run]);
    source.complete(&job, done(143)).unwrap();
    assert_eq!(source.cancelled().unwrap(), []);
    assert_eq!(host.job(run).status, Status::Cancelled);
}

#[test]
fn a_cancellation_ends_one_long_poll_and_is_in_every_heartbeats_reply() {
    let host = Host::with(|config| config.poll_hold = Duration::from_secs(20));
    let guest = host.running();
    let beat = heartbeat(RUNNER);

    let told = std::thread::scope(|scope| {
        let held = scope.spawn(|| host.poll(RUNNER).ok());
        host.client().cancel(guest.run).unwrap();
        let beaten = host.post_runner("heartbeat", &beat).ok();
        // The poll may have come after the cancellation, of which it is then not told.
        host.submit("end the poll");
        (held.join().unwrap(), beaten)
    });

    assert_eq!(told.1, json!({"ok": true, "cancelledRunIds": [guest.run]}));
    assert!(told.0["cancelledRunIds"] == json!([guest.run]) || !told.0["job"].is_null());
    guest.complete(143).ok();
    assert_eq!(host.post_runner("heartbeat", &beat).ok(), json!({"ok": true}));
    assert_eq!(host.client().runners().unwrap().len(), 1);
}

#[test]
fn cancellations_are_reported_to_the_claiming_runner_only() {
    let host = Host::start();
    let run = host.submit("x");
    let token = host.platform().runner_token();
    let headers = format!("Authorization: Bearer {token}\r\nX-Client-Session-Id: {RUNNER}\r\n");
    host.send("POST", &format!("/api/runners/jobs/{run}/claim"), &headers, b"{}").ok();
    host.client().cancel(run).unwrap();
    let told = |runner| host.post_runner("heartbeat", &heartbeat(runner)).ok();

    assert_eq!(told(RUNNER)["cancelledRunIds"], json!([run]));
    let other = "99999999-2222-4333-8444-555555555555";
    assert_eq!(told(other), json!({"ok": true}));
    assert_eq!(host.source().cancelled().unwrap(), []);
}

#[test]
fn a_malformed_heartbeat_is_rejected() {
    let host = Host::start();
    let status = |name: &str, value: Value| {
        let mut beat = heartbeat(RUNNER);
        beat[name] = value;
        host.post_runner("heartbeat", &beat).status
    };

    assert_eq!(status("mode", json!("asleep")), 400);
    assert_eq!(status("group", json!("no-scope")), 400);
    assert_eq!(status("snapshotSequence", json!(0)), 400);
    assert_eq!(status("heldSessionStates", json!([{}])), 400);
    assert_eq!(
        status(
            "heldSessionStates",
            json!(vec![json!({"sessionId": "s", "lastCompletedAt": 1}); 1025])
        ),
        413
    );
}

#[test]
fn a_job_that_ignores_its_cancellation_is_given_up() {
    let host = Host::with(|config| config.cancel_grace = Duration::from_millis(10));
    let guest = host.running();

    host.client().cancel(guest.run).unwrap();
    let job = host.client().wait(guest.run, Some(soon())).unwrap();

    assert_eq!(job.status, Status::Cancelled);
    assert_eq!(guest.complete(0).refused(), refusal(403, "ATTEMPT_SUPERSEDED"));
}

#[test]
fn a_job_that_takes_too_long_is_cancelled_and_fails() {
    let host = Host::start();
    let source = host.source();
    let submission =
        Submission { prompt: "x".into(), timeout_ms: Some(1), ..Submission::default() };
    let run = host.client().submit(&submission).unwrap().run_id;
    let job = take(&source);

    while source.cancelled().unwrap().is_empty() {
        source.notifications().recv_deadline(soon()).unwrap();
    }
    source.complete(&job, done(143)).unwrap();

    let job = host.job(run);
    assert_eq!((job.status, job.timed_out), (Status::Failed, true));
}

#[test]
fn a_success_after_a_cancellation_counts_as_a_success() {
    let host = Host::start();
    let guest = host.running();
    host.client().cancel(guest.run).unwrap();

    guest.complete(0).ok();

    assert_eq!(host.job(guest.run).status, Status::Completed);
}

#[test]
fn waiting_ends_with_the_job_or_the_deadline() {
    let host = Host::start();
    let guest = host.running();

    let early = host.client().wait(guest.run, Some(Instant::now()));
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| host.client().wait(guest.run, Some(soon())));
        guest.complete(0).ok();
        waiting.join().unwrap()
    });

    assert!(matches!(early, Err(Error::Deadline)));
    assert_eq!(waited.unwrap().status, Status::Completed);
}

#[test]
fn invalid_submissions_are_rejected() {
    let host = Host::start();
    let submit = |change: fn(&mut Submission)| {
        let mut submission = Submission { prompt: "x".into(), ..Submission::default() };
        change(&mut submission);
        matches!(host.client().submit(&submission), Err(Error::Answered { status: 400, .. }))
    };

    assert!(submit(|submission| submission.prompt = " ".into()));
    assert!(submit(|submission| submission.agent = Some("other".into())));
    assert!(submit(|submission| submission.timeout_ms = Some(0)));
    assert!(submit(|submission| drop(submission.environment.insert("A=B".into(), "".into()))));
    assert!(submit(|submission| drop(submission.context.insert("prompt".into(), json!("")))));
}

#[test]
fn a_runner_without_the_token_gets_nothing() {
    let host = Host::start();
    let body = json!({"runnerId": RUNNER, "group": "a/b", "supportedProfiles": ["x"]});

    let refused = host.post("/api/runners/poll", "guess", &body);

    assert_eq!(refused.refused(), refusal(401, "UNAUTHORIZED"));
}

#[test]
fn a_request_for_a_push_token_is_rejected_for_good() {
    let host = Host::start();

    let refused = host.post_runner("realtime/token", &json!({"group": "a/b"}));

    assert_eq!(refused.refused(), refusal(403, "REALTIME_UNAVAILABLE"));
}
