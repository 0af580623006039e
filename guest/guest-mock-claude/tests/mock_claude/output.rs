//! Bash's input, output and exit code.

use std::fs;

use crate::harness::{Fixture, MESSAGES, kill_by_number};

#[test]
fn the_exit_code_is_that_of_bash() {
    assert_eq!(Fixture::new().ask("exit 42").code, Some(42));
}

#[test]
fn a_script_killed_by_a_signal_gives_exit_code_128_plus_the_signal() {
    assert_eq!(Fixture::new().ask("kill -KILL $$").code, Some(137));
}

#[test]
fn the_command_runs_in_the_working_directory() {
    let fixture = Fixture::new();
    fixture.ask("echo text > made");
    assert_eq!(fs::read_to_string(fixture.work().join("made")).unwrap(), "text\n");
}

#[test]
fn stdout_and_stderr_are_one_stream_in_order() {
    let run = Fixture::new().ask("echo one; echo two >&2; echo three");
    assert_eq!(run.result()["result"], "one\ntwo\nthree");
    assert_eq!(run.stderr, "");
}

#[test]
fn output_over_the_limit_is_truncated_and_the_rest_counted() {
    let run = Fixture::new().ask("head -c 1000000 /dev/zero | tr '\\0' x");
    let expected = format!("{}\n... [970000 bytes truncated] ...", "x".repeat(30_000));
    assert_eq!(run.result()["result"], expected);
    assert_eq!(run.code, Some(0));
}

#[test]
fn output_of_exactly_the_limit_is_not_truncated() {
    let run = Fixture::new().ask("head -c 30000 /dev/zero | tr '\\0' x");
    assert_eq!(run.result()["result"], "x".repeat(30_000));
}

#[test]
fn output_is_not_truncated_inside_a_character() {
    let run = Fixture::new().ask("printf x; for i in {1..10001}; do printf €; done");
    let expected = format!("x{}\n... [6 bytes truncated] ...", "€".repeat(9_999));
    assert_eq!(run.result()["result"], expected);
}

#[test]
fn output_that_is_not_utf_8_is_replaced() {
    let run = Fixture::new().ask(r"printf 'a\xffb'");
    assert_eq!(run.result()["result"], "a\u{fffd}b");
}

#[test]
fn a_background_process_that_holds_the_output_does_not_delay_the_result() {
    let run = Fixture::new().ask("sleep infinity & echo $!");
    kill_by_number(run.result()["result"].as_str().unwrap().parse().unwrap());
    assert_eq!(run.code, Some(0));
}

#[test]
fn a_command_that_closes_its_output_runs_to_its_end() {
    let run = Fixture::new().ask("echo before; exec >&- 2>&-; bash -c 'exit 5'");
    assert_eq!(run.result()["result"], "before");
    assert_eq!(run.code, Some(5));
}

#[test]
fn a_command_finds_its_stdin_empty() {
    let run = Fixture::new().ask("wc -c");
    assert_eq!(run.result()["result"], "0");
}

#[test]
fn a_prompt_longer_than_an_argument_may_be_runs() {
    let prompt = format!("# {}\nwc -c\nexit 9", "x".repeat(1 << 20));
    let message = serde_json::json!({"type": "user", "message": {"content": prompt}});
    let run = Fixture::new().run_with_stdin(&MESSAGES, &message.to_string());
    assert_eq!(run.result()["result"], "0");
    assert_eq!(run.code, Some(9));
}

#[test]
fn the_longest_argument_runs() {
    let prompt = format!("echo ran #{}", "x".repeat(131_071 - 10));
    let message = serde_json::json!({"type": "user", "message": {"content": prompt}});
    let run = Fixture::new().run_with_stdin(&MESSAGES, &message.to_string());
    assert_eq!(run.result()["result"], "ran");
}

#[test]
fn a_prompt_one_byte_longer_than_the_longest_argument_runs() {
    let prompt = format!("echo ran #{}", "x".repeat(131_072 - 10));
    let message = serde_json::json!({"type": "user", "message": {"content": prompt}});
    let run = Fixture::new().run_with_stdin(&MESSAGES, &message.to_string());
    assert_eq!(run.result()["result"], "ran");
}

#[test]
fn a_missing_bash_is_an_error() {
    let fixture = Fixture::new();
    let output = fixture.command(&["true"]).env("PATH", "/nonexistent").output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(stderr.starts_with("error: cannot start bash: "), "{stderr}");
    assert_eq!(output.status.code(), Some(1));
}
