//! CLIs that hang, do not exit, or fail.

use crate::harness::{Fixture, make_pipe, read_pipe};

/// A fixture whose time limits after the result are zero.
fn with_short_limits(prompt: &str) -> Fixture {
    let mut fixture = Fixture::new(prompt);
    fixture.set("VM0_POST_RESULT_SIGTERM_GRACE_SECS", "0");
    fixture.set("VM0_POST_RESULT_SIGKILL_GRACE_SECS", "0");
    fixture
}

#[test]
fn a_tool_past_its_time_limit_fails_the_run_and_is_named() {
    let mut fixture = Fixture::new("@stuck-tool");
    fixture.set("VM0_STUCK_TOOL_TIMEOUT_SECS", "1");
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.error(), "Tool timeout: WebFetch exceeded 1s without returning a result");
    assert!(fixture.platform.calls("checkpoints").is_empty());
    assert_eq!(run.outcome["lastEventSequence"], 1);
}

#[test]
fn a_cli_that_does_not_exit_after_its_result_is_terminated_and_succeeds() {
    let fixture = with_short_limits("@hang-after-result");
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(run.outcome["checkpointId"], "c1");
}

#[test]
fn a_cli_that_ignores_sigterm_after_its_result_is_killed_and_succeeds() {
    let run = with_short_limits("@deaf").run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn an_error_result_fails_the_run_even_if_the_cli_was_terminated() {
    let mut fixture = Fixture::with_cli(
        r#"session
        say '{"type":"result","is_error":true,"result":"no credit"}'
        exec sleep infinity"#,
    );
    fixture.set("VM0_POST_RESULT_SIGTERM_GRACE_SECS", "0");
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    assert_eq!(run.error(), "the agent exited with code 1: no credit");
}

#[test]
fn an_orphan_that_holds_the_pipes_is_killed_without_delay() {
    let fixture = Fixture::new("@orphan-pipe");
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let events = fixture.platform.events();
    let result = events.last().unwrap()["result"].as_str().unwrap().to_owned();
    let pid = result.split(' ').nth(1).unwrap();
    assert!(!std::path::Path::new("/proc").join(pid).exists());
}

#[test]
fn orphans_that_fill_the_pipes_do_not_delay_the_end_of_a_run() {
    let fixture = Fixture::with_cli(
        r#"session
        setsid yes '{"type":"orphan"}' & setsid yes 'orphan' >&2 &
        say '{"type":"result","is_error":false}'"#,
    );
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.outcome);
}

#[test]
fn a_cli_that_does_not_read_its_prompt_succeeds() {
    let mut fixture = Fixture::with_cli("session\nsay '{\"type\":\"result\",\"is_error\":false}'");
    let file = fixture.path("prompt");
    std::fs::write(&file, "long ".repeat(1 << 20)).unwrap();
    fixture.set("VM0_PROMPT", "");
    fixture.set("VM0_PROMPT_FILE", file.to_str().unwrap());
    assert_eq!(fixture.run().code, Some(0));
}

#[test]
fn a_long_prompt_arrives_whole() {
    let mut fixture = Fixture::with_cli("session\nwc -c > \"$HOME/count\"");
    make_pipe(&fixture.path("home/count"));
    let file = fixture.path("prompt");
    std::fs::write(&file, "long ".repeat(1 << 20)).unwrap();
    fixture.set("VM0_PROMPT", "");
    fixture.set("VM0_PROMPT_FILE", file.to_str().unwrap());
    let running = fixture.start();
    let count: usize = read_pipe(&fixture.path("home/count")).trim().parse().unwrap();
    assert!(count > 5 << 20, "{count}");
    assert_eq!(running.wait(&fixture).code, Some(0));
}

#[test]
fn a_failed_run_has_the_exit_code_and_the_last_stderr_of_the_cli() {
    let fixture = Fixture::with_cli("session\necho first >&2; echo 'cannot go on' >&2; exit 7");
    let run = fixture.run();
    assert_eq!(run.code, Some(7));
    assert_eq!(run.error(), "the agent exited with code 7: first\ncannot go on");
    assert!(fixture.platform.calls("checkpoints").is_empty());
}

#[test]
fn a_cli_killed_by_a_signal_gives_exit_code_128_plus_the_signal() {
    let run = Fixture::with_cli("session\nkill -9 $$").run();
    assert_eq!(run.code, Some(137));
}

#[test]
fn a_missing_cli_is_an_error_of_its_start() {
    let mut fixture = Fixture::new("x");
    fixture.set("VM0_MOCK_CLAUDE_PATH", "/nonexistent/claude");
    let run = fixture.run();
    assert_eq!(run.code, Some(1));
    assert!(run.error().starts_with("cannot start the agent: "), "{}", run.error());
}
