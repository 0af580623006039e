//! `runner fleet`: listed, drained, cleared.

use serde_json::{Value, json};

use crate::harness::{Host, lines, stderr, stdout};

const ID: &str = "11111111-2222-4333-8444-555555555555";

/// A platform with a remote runner that has a job.
fn host() -> Host {
    let host = Host::start();
    let beat = json!({"runnerId": ID, "runnerName": "host-3", "group": "a/b",
        "snapshotGeneration": 1, "snapshotSequence": 1, "totalVcpu": 8, "totalMemoryMb": 1024,
        "maxConcurrent": 4, "allocatedVcpu": 2, "allocatedMemoryMb": 512, "runningCount": 1,
        "admittableProfiles": ["default"], "mode": "running",
        "heldSessionStates": [{"sessionId": "s", "lastCompletedAt": 1,
            "reusableSandbox": {"profile": "default"}}]});
    host.heartbeat(&beat);
    host
}

fn listed(host: &Host) -> Value {
    serde_json::from_str(&host.ok(&["fleet", "ls", "--json"])).unwrap()
}

#[test]
fn runners_are_listed_with_their_load() {
    let host = host();

    let text = host.ok(&["fleet", "ls"]);
    let json = &listed(&host)[0];

    let line = text.lines().nth(1).unwrap();
    assert!(line.starts_with("host-3   11111111   a/b     running   1/4    2/8"), "{text}");
    assert_eq!((json["runnerId"].as_str(), json["parked"].as_u64()), (Some(ID), Some(1)));
    assert_eq!(json["unhealthy"], Value::Null);
}

#[test]
fn a_runner_is_drained_by_name_and_undrained_by_a_prefix_of_its_id() {
    let host = host();

    let drained = host.run(&["fleet", "drain", "host-3"]);
    let state = listed(&host)[0]["drained"].clone();
    host.ok(&["fleet", "undrain", "1111"]);

    assert_eq!(stderr(&drained), "runner: 1 jobs still run there\n");
    assert_eq!((drained.status.code(), stdout(&drained)), (Some(0), String::new()));
    assert_eq!(state, true);
    assert_eq!(listed(&host)[0]["drained"], false);
    host.ok(&["fleet", "clear", ID]);
}

#[test]
fn an_unknown_runner_is_reported_with_how_to_list_them() {
    let host = host();

    let output = host.run(&["fleet", "drain", "host-4"]);

    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stderr(&output), "runner: no runner `host-4`: `runner fleet ls` lists them\n");
    assert_eq!(lines(&output), [Value::Null; 0]);
}
