//! Somebody ends the run.

use guest_test::Reply;
use nix::sys::signal::Signal;

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
fn a_signal_during_the_checkpoint_ends_it() {
    let place = Place::new("echo hello");
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
