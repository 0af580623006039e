//! CLIs that do not go on, or do not go.

use crate::harness::{Place, make_pipe, read_pipe};

/// A place whose limits after the result are as short as they can be.
fn hasty(prompt: &str) -> Place {
    let mut place = Place::new(prompt);
    place.set("VM0_POST_RESULT_SIGTERM_GRACE_SECS", "0");
    place.set("VM0_POST_RESULT_SIGKILL_GRACE_SECS", "0");
    place
}

#[test]
fn a_tool_that_does_not_return_ends_the_run_and_is_named() {
    let mut place = Place::new("@stuck-tool");
    place.set("VM0_STUCK_TOOL_TIMEOUT_SECS", "1");
    let run = place.run();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.error(), "Tool timeout: WebFetch exceeded 1s without returning a result");
    assert!(place.platform.calls("checkpoints").is_empty());
    assert_eq!(run.outcome["lastEventSequence"], 1);
}

#[test]
fn an_agent_that_stays_after_its_result_is_ended_and_has_succeeded() {
    let place = hasty("@hang-after-result");
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.outcome["checkpointId"], "c1");
}

#[test]
fn an_agent_that_is_deaf_to_sigterm_is_killed_and_has_succeeded() {
    let run = hasty("@deaf").run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn a_result_that_is_an_error_stays_one_though_the_agent_had_to_be_ended() {
    let mut place = Place::with_cli(
        r#"session
        say '{"type":"result","is_error":true,"result":"no credit"}'
        exec sleep infinity"#,
    );
    place.set("VM0_POST_RESULT_SIGTERM_GRACE_SECS", "0");
    let run = place.run();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.error(), "the agent exited with code 1: no credit");
}

#[test]
fn an_orphan_that_holds_the_pipes_delays_nothing_and_is_ended() {
    let place = Place::new("@orphan-pipe");
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let events = place.platform.events();
    let result = events.last().unwrap()["result"].as_str().unwrap().to_owned();
    let pid = result.split(' ').nth(1).unwrap();
    assert!(!std::path::Path::new("/proc").join(pid).exists());
}

#[test]
fn orphans_that_fill_the_pipes_do_not_keep_the_run() {
    let place = Place::with_cli(
        r#"session
        setsid yes '{"type":"orphan"}' & setsid yes 'orphan' >&2 &
        say '{"type":"result","is_error":false}'"#,
    );
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
}

#[test]
fn an_agent_that_does_not_read_its_prompt_is_no_problem() {
    let mut place = Place::with_cli("session\nsay '{\"type\":\"result\",\"is_error\":false}'");
    let file = place.path("prompt");
    std::fs::write(&file, "long ".repeat(1 << 20)).unwrap();
    place.set("VM0_PROMPT", "");
    place.set("VM0_PROMPT_FILE", file.to_str().unwrap());
    assert_eq!(place.run().code, Some(0));
}

#[test]
fn a_long_prompt_arrives_whole() {
    let mut place = Place::with_cli("session\nwc -c > \"$HOME/count\"");
    make_pipe(&place.path("home/count"));
    let file = place.path("prompt");
    std::fs::write(&file, "long ".repeat(1 << 20)).unwrap();
    place.set("VM0_PROMPT", "");
    place.set("VM0_PROMPT_FILE", file.to_str().unwrap());
    let running = place.start();
    let count: usize = read_pipe(&place.path("home/count")).trim().parse().unwrap();
    assert!(count > 5 << 20, "{count}");
    assert_eq!(running.wait(&place).code, Some(0));
}

#[test]
fn the_agents_exit_code_is_the_runs_and_its_last_words_say_why() {
    let place = Place::with_cli("session\necho first >&2; echo 'cannot go on' >&2; exit 7");
    let run = place.run();
    assert_eq!(run.code, Some(7));
    assert_eq!(run.error(), "the agent exited with code 7: first\ncannot go on");
    assert!(place.platform.calls("checkpoints").is_empty());
}

#[test]
fn an_agent_that_dies_of_a_signal_is_128_and_the_signal() {
    let run = Place::with_cli("session\nkill -9 $$").run();
    assert_eq!(run.code, Some(137));
}

#[test]
fn an_agent_that_is_not_there_is_said() {
    let mut place = Place::new("x");
    place.set("VM0_MOCK_CLAUDE_PATH", "/nonexistent/claude");
    let run = place.run();
    assert_eq!(run.code, Some(1));
    assert!(run.error().starts_with("cannot start the agent: "), "{}", run.error());
}
