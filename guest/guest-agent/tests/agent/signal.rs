//! Somebody ends the run.

use guest_test::Reply;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::harness::{Place, make_pipe, read_pipe};

#[test]
fn sigterm_ends_the_agent_first_and_what_it_said_arrives() {
    let place = Place::with_cli(
        r#"session
        trap 'say "{\"type\":\"farewell\"}"; exit 0' TERM
        echo ready > "$HOME/ready"
        sleep infinity & wait"#,
    );
    make_pipe(&place.path("home/ready"));
    let running = place.start();
    read_pipe(&place.path("home/ready"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&place);
    assert_eq!(run.code, Some(143));
    assert_eq!(run.error(), "ended by signal 15");
    assert_eq!(place.platform.events().last().unwrap()["type"], "farewell");
    assert!(place.platform.calls("checkpoints").is_empty());
}

#[test]
fn a_second_signal_ends_an_agent_that_is_deaf() {
    let place = Place::with_cli(
        r#"session
        trap '' TERM
        echo ready > "$HOME/ready"
        while :; do sleep infinity; done"#,
    );
    make_pipe(&place.path("home/ready"));
    let running = place.start();
    read_pipe(&place.path("home/ready"));
    running.signal(Signal::SIGTERM);
    running.signal(Signal::SIGINT);
    // Whichever of both the kernel hands over first counts.
    assert!(matches!(running.wait(&place).code, Some(130 | 143)));
}

#[test]
fn a_run_that_is_ended_before_the_platform_answers_ends_at_once() {
    let place = Place::new("x");
    place.platform.answer("heartbeat", Reply::mute());
    let running = place.start();
    place.platform.server.wait_for(|requests| !requests.is_empty());
    running.signal(Signal::SIGTERM);
    let run = running.wait(&place);
    assert_eq!(run.code, Some(143));
    assert!(place.platform.events().is_empty());
}

#[test]
fn a_signal_during_the_checkpoint_leaves_it_a_bounded_time() {
    let mut place = Place::new("echo hello");
    place.set("VM0_CANCEL_GRACE_SECS", "1");
    place.platform.answer("/upload/history", Reply::mute());
    let running = place.start();
    place
        .platform
        .server
        .wait_for(|requests| requests.iter().any(|request| request.method == "PUT"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&place);
    assert_eq!(run.code, Some(143));
    assert!(place.platform.calls("checkpoints").is_empty());
}

#[test]
fn a_checkpoint_that_ends_well_after_a_signal_is_a_success() {
    let place = Place::new("echo hello");
    let busy = || Reply::status(500).with("retry-after", "0");
    (0..50).for_each(|_| place.platform.answer("/upload/history", busy()));
    let running = place.start();
    place
        .platform
        .server
        .wait_for(|requests| requests.iter().any(|request| request.method == "PUT"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&place);
    assert_eq!(
        (run.code, &run.outcome["checkpointId"]),
        (Some(0), &"c1".into()),
        "{}",
        run.outcome
    );
}

/// A CLI that has changed its workspace and says that it waits.
const WAITING: &str = r#"session
    echo half > half-done
    echo ready > "$HOME/ready"
    exec sleep infinity"#;

fn waiting() -> Place {
    let mut place = Place::with_cli(WAITING);
    make_pipe(&place.path("home/ready"));
    let work = place.path("work");
    let list = json!([{ "name": "w", "mountPath": work, "storageId": "st", "versionId": "v0" }]);
    place.set("VM0_ARTIFACTS", &list.to_string());
    place
}

#[test]
fn what_a_cancelled_run_leaves_is_a_partial_checkpoint() {
    let place = waiting();
    let running = place.start();
    read_pipe(&place.path("home/ready"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&place);
    assert_eq!((run.code, run.error()), (Some(143), "ended by signal 15"));
    assert_eq!(run.outcome["partialCheckpointId"], "p1");
    assert!(place.platform.calls("checkpoints").is_empty());
    let partial = &place.platform.bodies("checkpoints/partial")[0];
    assert_eq!(partial["session"]["id"], "s1");
    assert_eq!(partial["artifactSnapshots"][0]["version"], "version-of-st");
    let prepare = &place.platform.bodies("storages/prepare")[0];
    assert_eq!(prepare["files"][0]["path"], "half-done");
}

#[test]
fn a_cancelled_run_ends_in_time_though_its_checkpoint_does_not_come_to_an_end() {
    let mut place = waiting();
    place.set("VM0_CANCEL_GRACE_SECS", "1");
    place.platform.answer("/upload/st/archive", Reply::mute());
    let running = place.start();
    read_pipe(&place.path("home/ready"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&place);
    assert_eq!((run.code, run.error()), (Some(143), "ended by signal 15"));
    assert!(place.platform.calls("checkpoints/partial").is_empty());
}

#[test]
fn a_platform_without_partial_checkpoints_gets_nothing_of_a_cancelled_run() {
    let place = waiting();
    place.platform.answer("checkpoints/partial/prepare", Reply::refusal(404, "no such call"));
    let running = place.start();
    read_pipe(&place.path("home/ready"));
    running.signal(Signal::SIGTERM);
    let run = running.wait(&place);
    assert_eq!((run.code, run.error()), (Some(143), "ended by signal 15"));
    assert!(place.platform.uploads().is_empty());
    assert!(place.platform.calls("storages/prepare").is_empty());
    let log = place.text("home/.vm0/guest-agent/runs/run-1/system.log");
    assert!(!log.contains("partial"), "{log}");
}
