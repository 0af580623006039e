//! Telemetry: the log, the metrics and the operations.

use guest_test::Reply;
use serde_json::Value;

use crate::harness::Fixture;

fn all(fixture: &Fixture, list: &str) -> Vec<Value> {
    let reports = fixture.platform.bodies("telemetry").into_iter();
    reports.flat_map(|report| report[list].as_array().cloned().unwrap_or_default()).collect()
}

#[test]
fn the_last_report_has_the_log_a_metric_and_the_operations() {
    let mut fixture =
        Fixture::with_cli("session\necho 'a remark' >&2\nsay '{\"type\":\"result\"}'");
    fixture.set("VM0_API_START_TIME", "1");
    assert_eq!(fixture.run().code, Some(0));
    let reports = fixture.platform.bodies("telemetry");
    assert!(reports.iter().all(|report| report["runId"] == "run-1"));
    let logs = reports.iter().filter_map(|report| report["systemLog"].as_str());
    assert!(logs.collect::<String>().contains("agent: a remark"));
    let metric = &all(&fixture, "metrics")[0];
    assert!(metric["mem_total"].as_u64().unwrap() > 0 && metric["cpu"].is_number(), "{metric}");
    let operations = all(&fixture, "sandboxOperations");
    let actions: Vec<_> =
        operations.iter().map(|done| done["action_type"].as_str().unwrap()).collect();
    for action in [
        "working_dir_setup",
        "heartbeat_start",
        "init_total",
        "api_to_cli_init",
        "cli_execution",
        "session_history_read",
        "session_history_prepare",
        "session_history_s3_upload",
        "checkpoint_api_call",
        "checkpoint_total",
        "final_telemetry_upload",
    ] {
        assert!(actions.contains(&action), "{action} in {actions:?}");
    }
    assert!(operations.iter().all(|done| done["success"] == true && done["ts"].is_string()));
}

#[test]
fn telemetry_that_the_platform_did_not_accept_is_sent_again() {
    let fixture = Fixture::new("echo hello");
    fixture.platform.answer("telemetry", Reply::status(500).with("retry-after", "0"));
    fixture.platform.answer("telemetry", Reply::status(500).with("retry-after", "0"));
    assert_eq!(fixture.run().code, Some(0));
    let reports = fixture.platform.bodies("telemetry");
    assert_eq!(reports[0], reports[1]);
    assert_eq!(reports[0], reports[2]);
}

#[test]
fn a_platform_that_rejects_telemetry_does_not_fail_a_run() {
    let fixture = Fixture::new("echo hello");
    for _ in 0..9 {
        fixture.platform.answer("telemetry", Reply::refusal(400, "no"));
    }
    assert_eq!(fixture.run().code, Some(0));
}

#[test]
fn operations_recorded_before_the_run_are_reported_too() {
    let fixture = Fixture::new("echo hello");
    let folder = guest_common::RunFolder::open(&fixture.path("home"), "run-1").unwrap();
    let log = guest_common::OperationLog::open(&folder).unwrap();
    log.record("storage_download", std::time::Instant::now(), None);
    assert_eq!(fixture.run().code, Some(0));
    assert_eq!(all(&fixture, "sandboxOperations")[0]["action_type"], "storage_download");
}

#[test]
fn many_stderr_lines_stay_within_the_limits_of_a_report() {
    let fixture = Fixture::with_cli(
        r#"session
        for number in {1..20000}; do echo "remark $number, and more of it, so that it is long" >&2; done
        say '{"type":"result"}'"#,
    );
    assert_eq!(fixture.run().code, Some(0));
    let requests = fixture.platform.calls("telemetry");
    assert!(requests.iter().all(|request| request.body.len() <= 1 << 20));
    let reports = fixture.platform.bodies("telemetry");
    let log: String = reports.iter().filter_map(|report| report["systemLog"].as_str()).collect();
    assert_eq!(log.lines().filter(|line| line.contains("agent: remark")).count(), 20_000);
}
