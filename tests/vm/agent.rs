//! The mock agent in a VM.

use crate::runner::Runner;

#[test]
#[ignore = "needs root and QEMU"]
fn the_mock_agent_runs_its_prompt_and_prints_events() {
    let runner = Runner::new();
    let prompt = "uname -r; id -un; echo \"it's $((6*7))\"";
    let output = runner.succeed(&["run", "--agent", "mock", "--json", "--", prompt]);
    let events: Vec<serde_json::Value> =
        output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events[0]["type"], "system");
    assert_eq!(events[0]["cwd"], "/home/user/workspace");
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["subtype"]), (&"result".into(), &"success".into()));
    assert!(output.contains("it's 42"), "{output}");
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_failing_agent_fails_the_run() {
    let output = Runner::new().run(&["run", "--agent", "mock", "--", "exit 5"]);
    assert_eq!(output.status.code(), Some(5));
}
