//! Local mode: the CLI runs without a platform, and its events are printed.

use base64::Engine as _;

use crate::harness::{Fixture, make_pipe, read_pipe};

fn local(mut fixture: Fixture) -> Fixture {
    fixture.set("VM0_API_TOKEN", "");
    fixture
}

#[test]
fn local_mode_prints_masked_events_and_makes_no_request() {
    let mut fixture = local(Fixture::new("echo my-secret"));
    fixture
        .set("VM0_SECRET_VALUES", &base64::engine::general_purpose::STANDARD.encode("my-secret"));
    let run = fixture.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let events: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 5);
    assert_eq!(events[4]["result"], "***");
    assert!(events.iter().all(|event| event.get("sequenceNumber").is_none()));
    assert!(!run.stdout.contains("my-secret") && !run.stderr.contains("my-secret"));
    assert!(fixture.platform.server.requests().is_empty());
}

#[test]
fn in_local_mode_the_exit_code_is_that_of_the_cli() {
    assert_eq!(local(Fixture::new("exit 7")).run().code, Some(7));
    assert_eq!(local(Fixture::with_cli("exit 0")).run().code, Some(0));
}

#[test]
fn local_mode_prints_all_of_many_events() {
    let run = local(Fixture::new("@flood:20000")).run();
    assert_eq!(run.stdout.lines().count(), 20_002);
}

#[test]
fn a_closed_standard_output_does_not_end_the_run() {
    let fixture = local(Fixture::new("@flood:20000"));
    let mut command = fixture.command();
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let child = command.spawn().unwrap();
    drop(command);
    drop(reader);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn a_tool_result_that_waits_in_a_full_pipe_counts_as_in_time() {
    let mut fixture = local(Fixture::with_cli(
        r#"printf '{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t","name":"WebFetch","input":"'
        head -c 600000 /dev/zero | tr '\0' x; echo '"}]}}'
        say '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t"}]}}'
        echo done > "$HOME/done""#,
    ));
    make_pipe(&fixture.path("home/done"));
    fixture.set("VM0_STUCK_TOOL_TIMEOUT_SECS", "0");
    let running = fixture.start();
    assert_eq!(read_pipe(&fixture.path("home/done")), "done\n");
    assert_eq!(running.wait(&fixture).code, Some(0));
}
