//! Which runner gets which job: groups, and sessions whose VM a runner has.

use std::time::Duration;

use platform::{RunId, Submission};
use serde_json::{Value, json};

use crate::harness::{Host, refusal, soon, wanted};
use crate::jobs::{RUNNER, heartbeat};

pub(crate) const OTHER: &str = "22222222-2222-4333-8444-555555555555";

/// Far longer than a test.
const LONG: Duration = Duration::from_secs(3600);

/// A platform that answers a poll soon, whether or not there is a job.
fn host() -> Host {
    Host::with(|config| {
        config.poll_hold = Duration::from_millis(50);
        config.affinity = LONG;
    })
}

fn submit(host: &Host, group: &str) -> RunId {
    let submission =
        Submission { prompt: "x".into(), group: Some(group.into()), ..Submission::default() };
    host.client().submit(&submission).unwrap().run_id
}

/// The job that a runner of a group is offered.
fn offered(host: &Host, runner: &str, group: &str) -> Value {
    let poll = json!({"runnerId": runner, "group": group, "supportedProfiles": ["default"]});
    host.post_runner("poll", &poll).ok()["job"]["runId"].clone()
}

/// The heartbeat of a runner of `a/b` that has the VM of a session.
pub(crate) fn holding(runner: &str, session: &str) -> Value {
    let mut beat = heartbeat(runner);
    beat["admittableProfiles"] = json!(["default"]);
    beat["heldSessionStates"] = json!([{"sessionId": session, "lastCompletedAt": 5,
        "reusableSandbox": {"profile": "default"}}]);
    beat
}

/// The same with another value of a member.
fn but(mut beat: Value, member: &str, value: Value) -> Value {
    beat["snapshotSequence"] = json!(2);
    beat[member] = value;
    beat
}

#[test]
fn a_job_is_offered_to_runners_of_its_group_alone() {
    let host = host();
    let run = submit(&host, "a/b");

    assert_eq!(offered(&host, OTHER, "a/c"), Value::Null);
    assert_eq!(offered(&host, RUNNER, "a/b"), json!(run));
    assert_eq!(host.job(run).group.as_deref(), Some("a/b"));
}

#[test]
fn a_job_without_a_group_is_offered_to_all() {
    let host = host();
    let run = host.submit("x");

    assert_eq!(offered(&host, OTHER, "a/c"), json!(run));
}

#[test]
fn a_job_that_names_no_group_is_in_the_configured_one_or_that_of_the_job_it_resumes() {
    let host = Host::with(|config| config.group = Some("a/b".into()));
    let run = host.submit("x");
    let other = submit(&host, "a/c");

    let guest = host.claim(other);
    let hash = guest.history("{}\n");
    let body = json!({"cliAgentType": "claude-code", "cliAgentSessionId": "s",
        "cliAgentSessionHistoryHash": hash});
    guest.post("checkpoints", body).ok();
    let resumed = host.resume(other);

    assert_eq!(host.job(run).group.as_deref(), Some("a/b"));
    assert_eq!(host.job(resumed).group.as_deref(), Some("a/c"));
}

#[test]
fn a_malformed_group_is_rejected() {
    let host = host();
    let submission =
        Submission { prompt: "x".into(), group: Some("gpu".into()), ..Submission::default() };

    let error = host.client().submit(&submission).unwrap_err();

    assert!(error.to_string().contains("`group` is not of the form scope/name"), "{error}");
}

#[test]
fn a_runner_cannot_claim_a_job_of_another_group() {
    let host = host();
    let run = submit(&host, "a/c");
    host.post_runner("heartbeat", &heartbeat(RUNNER)).ok();
    let token = host.platform().runner_token();
    let headers = format!("Authorization: Bearer {token}\r\nX-Client-Session-Id: {RUNNER}\r\n");

    let claimed = host.send("POST", &format!("/api/runners/jobs/{run}/claim"), &headers, b"{}");

    assert_eq!(claimed.refused(), refusal(403, "WRONG_GROUP"));
    assert_eq!(host.job(run).attempt, 0);
}

#[test]
fn a_runner_in_the_platforms_process_takes_jobs_of_its_group() {
    let host = host();
    submit(&host, "a/c");
    let run = submit(&host, "a/b");
    let source = host.source();

    let wanted = platform::Wanted { group: Some("a/b".into()), ..wanted() };

    assert_eq!(source.next(&wanted, soon()).unwrap().unwrap().run_id, run);
}

#[test]
fn a_job_is_offered_to_the_runner_that_has_its_sessions_vm() {
    let host = host();
    host.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    let run = host.resume(host.with_session("s"));

    assert_eq!(offered(&host, OTHER, "a/b"), Value::Null);
    assert_eq!(offered(&host, RUNNER, "a/b"), json!(run));
}

#[test]
fn a_session_does_not_delay_other_jobs() {
    let host = host();
    host.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    host.resume(host.with_session("s"));
    let later = host.submit("x");

    assert_eq!(offered(&host, OTHER, "a/b"), json!(later));
}

#[test]
fn of_two_runners_with_a_sessions_vm_the_later_one_is_asked_first() {
    let host = host();
    host.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    let mut later = holding(OTHER, "s");
    later["heldSessionStates"][0]["lastCompletedAt"] = json!(6);
    host.post_runner("heartbeat", &later).ok();
    let run = host.resume(host.with_session("s"));

    assert_eq!(offered(&host, RUNNER, "a/b"), Value::Null);
    assert_eq!(offered(&host, OTHER, "a/b"), json!(run));
}

/// What another runner is offered after the one that has the VM says this.
fn offered_after(beat: impl Fn(Value) -> Value) -> bool {
    let host = host();
    host.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    let run = host.resume(host.with_session("s"));
    host.post_runner("heartbeat", &beat(holding(RUNNER, "s"))).ok();
    offered(&host, OTHER, "a/b") == json!(run)
}

#[test]
fn a_session_is_free_at_once_if_its_runner_drains_is_full_or_gave_it_up() {
    assert!(!offered_after(|beat| but(beat, "mode", json!("running"))));
    assert!(offered_after(|beat| but(beat, "mode", json!("draining"))));
    assert!(offered_after(|beat| but(beat, "admittableProfiles", json!([]))));
    assert!(offered_after(|beat| but(beat, "heldSessionStates", json!([]))));
}

#[test]
fn a_session_of_another_profile_or_without_a_vm_holds_no_job() {
    let with = |vm: Value| {
        let states = json!([{"sessionId": "s", "lastCompletedAt": 5, "reusableSandbox": vm}]);
        offered_after(|beat| but(beat, "heldSessionStates", states.clone()))
    };
    assert!(with(json!({"profile": "big"})));
    assert!(with(Value::Null));
}

#[test]
fn a_job_goes_to_any_runner_once_its_session_has_waited() {
    let host = Host::with(|config| config.affinity = Duration::from_millis(20));
    host.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    let run = host.resume(host.with_session("s"));

    // The poll is held until then.
    assert_eq!(offered(&host, OTHER, "a/b"), json!(run));
}

#[test]
fn a_held_poll_gets_a_sessions_job_when_its_runner_drains() {
    let host = Host::with(|config| config.affinity = LONG);
    host.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    let run = host.resume(host.with_session("s"));

    let offered = std::thread::scope(|scope| {
        let held = scope.spawn(|| offered(&host, OTHER, "a/b"));
        let drains = but(holding(RUNNER, "s"), "mode", json!("draining"));
        host.post_runner("heartbeat", &drains).ok();
        held.join().unwrap()
    });

    assert_eq!(offered, json!(run));
}

#[test]
fn a_resumed_job_that_is_queued_again_waits_for_no_runner() {
    let host = Host::with(|config| {
        config.poll_hold = Duration::from_millis(50);
        config.affinity = Duration::from_millis(1);
    });
    host.post_runner("heartbeat", &holding(RUNNER, "s")).ok();
    let run = host.resume(host.with_session("s"));
    let source = host.source();
    source.claim(run).unwrap().unwrap();
    source.give_back(run, 1).unwrap();

    assert_eq!(offered(&host, OTHER, "a/b"), json!(run));
}

#[test]
fn a_job_that_is_offered_and_not_claimed_goes_to_the_other_held_poll() {
    let host = &Host::start();

    let (offered, run) = std::thread::scope(|scope| {
        let held = [RUNNER, OTHER].map(|runner| scope.spawn(move || offered(host, runner, "a/b")));
        let run = host.submit("x");
        (held.map(|one| one.join().unwrap()), run)
    });

    assert_eq!(offered, [json!(run), json!(run)]);
}
