//! Jobs of one session of a remote platform, run by a runner that parks VMs.

use std::sync::{Arc, Mutex};

use crossbeam_channel::unbounded;
use guest_test::{Reply, Server};
use sandbox::fake::Script;
use serde_json::json;

use super::api::source_with;
use super::{AGENT, Fixture, leave_outcome};

#[test]
fn a_sessions_next_job_reuses_its_vm_and_the_platform_gets_the_reuse_result() {
    let runs = [1, 2].map(|n| format!("01234567-89ab-4def-8123-00000000000{n}"));
    let offers = Mutex::new(runs.clone().into_iter());
    let (holds_tx, holds) = unbounded();
    let server = Server::start(move |request| match request.target() {
        "/api/runners/poll" => {
            let Some(run) = offers.lock().unwrap().next() else { return Reply::mute() };
            if run.ends_with('2') {
                holds.recv().unwrap();
            }
            Reply::json(&json!({"job": {"runId": run, "reuseKey": "k"}}))
        }
        "/api/runners/heartbeat" => {
            let held = request.json()["heldSessionStates"].clone();
            if held != json!([]) {
                holds_tx.send(()).unwrap();
            }
            Reply::json(&json!({"ok": true}))
        }
        target if target.ends_with("/claim") => Reply::json(&json!({
            "runId": target.split('/').nth(4), "sandboxToken": "t", "prompt": "do it",
            "cliAgentType": "claude-code", "reuseKey": "k",
        })),
        _ => Reply::json(&json!({"success": true})),
    });
    let mut fixture = Fixture::new();
    fixture.config.parked = 1;
    let runner = tempfile::tempdir().unwrap();
    let source = source_with(&runner, &fixture, &server.url(), "runner's", None);
    let leave = |request: &_, record: &mut _| {
        leave_outcome(request, record, &json!({"exitCode": 0, "sessionId": "s-1"}));
    };
    let factory = Arc::new(Script::default().on(AGENT, &[], 0).act(AGENT, leave).factory());
    let service = fixture.start_with(source, &factory);

    let complete = "/api/webhooks/agent/complete";
    let is_complete = |request: &guest_test::Request| request.target() == complete;
    server.wait_for(|requests| requests.iter().filter(|request| is_complete(request)).count() == 2);
    service.shut_down();

    let completions = server.requests_to(complete);
    let reuse = completions.iter().map(|request| request.json()["sandboxReuseResult"].clone());
    assert_eq!(reuse.collect::<Vec<_>>(), [json!("poolMiss"), json!("reused")]);
    assert_eq!(completions[0].json()["sandboxId"], completions[1].json()["sandboxId"]);
    let beats = server.requests_to("/api/runners/heartbeat");
    let held = beats.iter().map(|beat| beat.json()["heldSessionStates"][0].clone());
    let held = held.into_iter().find(|held| !held.is_null()).unwrap();
    assert_eq!(
        (&held["sessionId"], &held["reusableSandbox"]),
        (&json!("s-1"), &json!({"profile": "default"}))
    );
    assert!(held["lastCompletedAt"].as_u64().unwrap() > 1_600_000_000_000);
    let record = factory.record();
    assert_eq!((record.started, record.ended), (1, 1));
}
