//! Signals end the run.

use guest_test::Reply;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Fixture, make_pipe, read_pipe};

#[test]
fn sigterm_terminates_the_cli_and_its_last_events_arrive() {
    let fixture = Fixture::with_cli(
        r#"session
        trap 'say "{\"type\":\"goodbye\"}"; exit 0' TERM
        echo ready > "$HOME/ready"
        sleep infinity & wait"#,
    );
    make_pipe(&fixture.path("home/ready"));
    let running = fixture.start();
    read_pipe(&fixture.path("home/ready"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&fixture);
    assert_eq!(run.code, Some(143));
    assert_eq!(run.error(), "ended by signal 15");
    assert_eq!(fixture.platform.events().last().unwrap()["type"], "goodbye");
    assert!(fixture.platform.calls("checkpoints").is_empty());
}

#[test]
fn a_second_signal_kills_a_cli_that_ignores_sigterm() {
    let fixture = Fixture::with_cli(
        r#"session
        trap '' TERM
        echo ready > "$HOME/ready"
        while :; do sleep infinity; done"#,
    );
    make_pipe(&fixture.path("home/ready"));
    let running = fixture.start();
    read_pipe(&fixture.path("home/ready"));
    running.signal(Signal::SIGTERM);
    running.signal(Signal::SIGINT);
    // The kernel may deliver either signal first.
    assert!(matches!(running.wait(&fixture).code, Some(130 | 143)));
}

#[test]
fn a_signal_before_the_platform_answers_ends_the_run_at_once() {
    let fixture = Fixture::new("x");
    fixture.platform.answer("heartbeat", Reply::mute());
    let running = fixture.start();
    fixture.platform.server.wait_for(|requests| !requests.is_empty());
    running.signal(Signal::SIGTERM);
    let run = running.wait(&fixture);
    assert_eq!(run.code, Some(143));
    assert!(fixture.platform.events().is_empty());
}

#[test]
fn a_signal_during_the_checkpoint_bounds_its_time() {
    let mut fixture = Fixture::new("echo hello");
    fixture.set("VM0_CANCEL_GRACE_SECS", "1");
    fixture.platform.answer("/upload/history", Reply::mute());
    let running = fixture.start();
    fixture
        .platform
        .server
        .wait_for(|requests| requests.iter().any(|request| request.method == "PUT"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&fixture);
    assert_eq!(run.code, Some(143));
    assert!(fixture.platform.calls("checkpoints").is_empty());
}

#[test]
fn a_checkpoint_that_completes_after_a_signal_is_a_success() {
    let fixture = Fixture::new("echo hello");
    let busy = || Reply::status(500).with("retry-after", "0");
    (0..50).for_each(|_| fixture.platform.answer("/upload/history", busy()));
    let running = fixture.start();
    fixture
        .platform
        .server
        .wait_for(|requests| requests.iter().any(|request| request.method == "PUT"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&fixture);
    assert_eq!(
        (run.code, &run.outcome["checkpointId"]),
        (Some(0), &"c1".into()),
        "{}",
        run.outcome
    );
}

/// A CLI that changes its workspace, signals that it waits, and sleeps.
const WAITING: &str = r#"session
    echo half > half-done
    echo ready > "$HOME/ready"
    exec sleep infinity"#;

fn waiting() -> Fixture {
    let mut fixture = Fixture::with_cli(WAITING);
    make_pipe(&fixture.path("home/ready"));
    let work = fixture.path("work");
    let list = json!([{ "name": "w", "mountPath": work, "storageId": "st", "versionId": "v0" }]);
    fixture.set("VM0_ARTIFACTS", &list.to_string());
    fixture
}

#[test]
fn a_cancelled_run_makes_a_partial_checkpoint() {
    let fixture = waiting();
    let running = fixture.start();
    read_pipe(&fixture.path("home/ready"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&fixture);
    assert_eq!((run.code, run.error()), (Some(143), "ended by signal 15"));
    assert_eq!(run.outcome["partialCheckpointId"], "p1");
    assert!(fixture.platform.calls("checkpoints").is_empty());
    let partial = &fixture.platform.bodies("checkpoints/partial")[0];
    assert_eq!(partial["session"]["id"], "s1");
    assert_eq!(partial["artifactSnapshots"][0]["version"], "version-of-st");
    let prepare = &fixture.platform.bodies("storages/prepare")[0];
    assert_eq!(prepare["files"][0]["path"], "half-done");
}

#[test]
fn a_cancelled_run_ends_in_time_even_if_its_checkpoint_hangs() {
    let mut fixture = waiting();
    fixture.set("VM0_CANCEL_GRACE_SECS", "1");
    fixture.platform.answer("/upload/st/archive", Reply::mute());
    let running = fixture.start();
    read_pipe(&fixture.path("home/ready"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&fixture);
    assert_eq!((run.code, run.error()), (Some(143), "ended by signal 15"));
    assert!(fixture.platform.calls("checkpoints/partial").is_empty());
}

#[test]
fn a_platform_without_partial_checkpoints_receives_nothing_of_a_cancelled_run() {
    let fixture = waiting();
    fixture.platform.answer("checkpoints/partial/prepare", Reply::refusal(404, "no such call"));
    let running = fixture.start();
    read_pipe(&fixture.path("home/ready"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&fixture);
    assert_eq!((run.code, run.error()), (Some(143), "ended by signal 15"));
    assert!(fixture.platform.uploads().is_empty());
    assert!(fixture.platform.calls("storages/prepare").is_empty());
    let log = fixture.text("home/.vm0/guest-agent/runs/run-1/system.log");
    assert!(!log.contains("partial"), "{log}");
}
