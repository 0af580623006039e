//! What is shown of jobs.

use serde_json::{Value, json};

use crate::harness::{Host, lines};

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn jobs_are_listed_for_people_and_for_programs() {
    let host = Host::start();
    let first = host.submit(&[]);
    let second = host.submit(&["--agent", "codex"]);

    let table = host.ok(&["job", "ls"]);
    let jobs = parsed(&host.ok(&["job", "ls", "--json"]));
    let older = parsed(&host.ok(&["job", "ls", "--json", "--before", &second]));
    let one = parsed(&host.ok(&["job", "ls", "--json", "-n", "1"]));

    let rows: Vec<_> = table.lines().collect();
    assert!(rows[0].starts_with("ID         STATUS   AGENT"), "{table}");
    assert!(rows[1].starts_with(&format!("{}   queued   codex", &second[..8])), "{table}");
    assert!(rows[2].ends_with("do it"), "{table}");
    assert_eq!((&jobs[0]["runId"], &jobs[1]["runId"]), (&json!(second), &json!(first)));
    assert_eq!((older.as_array().unwrap().len(), &older[0]["runId"]), (1, &json!(first)));
    assert_eq!((one.as_array().unwrap().len(), &one[0]["runId"]), (1, &json!(second)));
}

#[test]
fn a_job_is_shown_by_a_prefix_of_its_id() {
    let host = Host::start();
    let run = host.submit(&[]);
    let guest = host.take();
    guest.complete(3, Some("it broke"));

    let text = host.ok(&["job", "show", &run[..8]]);
    let job = parsed(&host.ok(&["job", "show", &run, "--json"]));

    assert!(text.contains("failed, exit code 3\n") && text.contains("it broke\n"), "{text}");
    assert_eq!((&job["runId"], &job["exitCode"]), (&json!(run), &json!(3)));
}

#[test]
fn stored_events_are_shown_without_waiting() {
    let host = Host::start();
    let run = host.submit(&[]);
    let guest = host.take();
    guest.says(0, "one");
    guest.says(1, "two");

    assert_eq!(host.ok(&["job", "events", &run]), "one\ntwo\n");
    let rest = lines(&host.run(&["job", "events", &run, "--json", "--after", "1"]));
    assert_eq!(rest.len(), 1);
    assert_eq!((&rest[0]["position"], &rest[0]["sequence"]), (&json!(2), &json!(1)));
}

#[test]
fn control_characters_of_a_guest_do_not_reach_the_terminal() {
    let host = Host::start();
    let run = host.submit(&[]);
    host.take().says(0, "\u{1b}]0;owned\u{7}\u{1b}[2J");
    let shown = host.ok(&["job", "events", &run]);
    assert_eq!(shown, "\\x1b]0;owned\\x07\\x1b[2J\n");
}

#[test]
fn logs_are_followed_to_the_end_of_the_job() {
    let host = Host::start();
    let run = host.submit(&[]);
    let guest = host.take();
    let mut follower = host.begin(&["job", "logs", "--follow", &run]);

    guest.post("telemetry", json!({"systemLog": "booted\n"}));
    assert_eq!(follower.line(), "booted\n");
    let operation = json!({"ts": "T", "action_type": "cleanup", "duration_ms": 5, "success": true});
    guest.post("telemetry", json!({"sandboxOperations": [operation]}));
    assert_eq!(follower.line(), "T cleanup 5 ms\n");
    guest.complete(0, None);

    assert_eq!(follower.end().status.code(), Some(0));
    let reports = lines(&host.run(&["job", "logs", &run, "--json"]));
    assert_eq!(reports[0]["content"]["systemLog"], "booted\n");
}

#[test]
fn a_checkpoint_is_shown_with_its_session_and_artifacts() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    let run = host.submit(&["--artifact", &format!("app={}:/w", dir.path().display())]);
    let guest = host.take();
    let mount = guest.mounts()[0].clone();
    guest.checkpoint(&[(&mount, mount["versionId"].as_str().unwrap())]);

    let text = host.ok(&["job", "checkpoint", &run]);
    let checkpoint = parsed(&host.ok(&["job", "checkpoint", "--json", &run]));

    assert!(text.contains("session      session-1\n"), "{text}");
    assert!(text.contains("app at /w, version "), "{text}");
    assert_eq!(checkpoint["artifacts"][0]["versionId"], mount["versionId"]);
}
