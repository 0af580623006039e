//! Without a platform: the CLI runs, and its events are printed.

use base64::Engine as _;

use crate::harness::{Place, make_pipe, read_pipe};

fn local(mut place: Place) -> Place {
    place.set("VM0_API_TOKEN", "");
    place
}

#[test]
fn events_are_printed_masked_and_nobody_is_asked_anything() {
    let mut place = local(Place::new("echo my-secret"));
    place.set("VM0_SECRET_VALUES", &base64::engine::general_purpose::STANDARD.encode("my-secret"));
    let run = place.run();
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    let events: Vec<serde_json::Value> =
        run.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 5);
    assert_eq!(events[4]["result"], "***");
    assert!(events.iter().all(|event| event.get("sequenceNumber").is_none()));
    assert!(!run.stdout.contains("my-secret") && !run.stderr.contains("my-secret"));
    assert!(place.platform.server.requests().is_empty());
}

#[test]
fn the_exit_code_is_the_agents_and_needs_no_checkpoint() {
    assert_eq!(local(Place::new("exit 7")).run().code, Some(7));
    assert_eq!(local(Place::with_cli("exit 0")).run().code, Some(0));
}

#[test]
fn a_flood_is_printed_whole() {
    let run = local(Place::new("@flood:20000")).run();
    assert_eq!(run.stdout.lines().count(), 20_002);
}

#[test]
fn a_reader_that_goes_ends_nothing() {
    let place = local(Place::new("@flood:20000"));
    let mut command = place.command();
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let child = command.spawn().unwrap();
    drop(command);
    drop(reader);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn a_tool_that_returned_while_nobody_listened_has_returned() {
    let mut place = local(Place::with_cli(
        r#"printf '{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t","name":"WebFetch","input":"'
        head -c 600000 /dev/zero | tr '\0' x; echo '"}]}}'
        say '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t"}]}}'
        echo done > "$HOME/done""#,
    ));
    make_pipe(&place.path("home/done"));
    place.set("VM0_STUCK_TOOL_TIMEOUT_SECS", "0");
    let running = place.start();
    assert_eq!(read_pipe(&place.path("home/done")), "done\n");
    assert_eq!(running.wait(&place).code, Some(0));
}
