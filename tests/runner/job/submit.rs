//! Submitting, and following what was submitted.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use serde_json::json;

use crate::harness::{Host, lines, stderr, stdout};

#[test]
fn submit_prints_the_id_of_the_job_only() {
    let host = Host::start();
    let printed = host.ok(&["job", "submit", "--prompt", "do it", "--profile", "default"]);
    let guest = host.take();
    assert_eq!(printed, format!("{}\n", guest.run()));
    assert_eq!(guest.context()["prompt"], "do it");
    assert_eq!(guest.context()["experimentalProfile"], "default");
}

#[test]
fn following_prints_the_events_and_exits_with_the_jobs_code() {
    let host = Host::start();
    let follower = host.begin(&["job", "submit", "--prompt", "do it", "--follow"]);
    let guest = host.take();
    guest.says(0, "Looking around");
    guest.event(json!({"type": "result", "sequenceNumber": 1, "is_error": false,
        "duration_ms": 1500, "num_turns": 2, "total_cost_usd": 0.25}));
    guest.complete(7, Some("it broke"));

    let output = follower.end();

    assert_eq!(output.status.code(), Some(7));
    assert_eq!(stdout(&output), "Looking around\ndone in 1.5 s, 2 turns, $0.2500\n");
    let run = guest.run();
    assert_eq!(stderr(&output), format!("job {run}\njob {run} failed, exit code 7: it broke\n"));
}

#[test]
fn events_are_shown_while_the_job_runs() {
    let host = Host::start();
    let mut follower = host.begin(&["job", "submit", "--prompt", "do it", "--follow", "--quiet"]);
    let guest = host.take();

    guest.says(0, "one");
    assert_eq!(follower.line(), "one\n");
    guest.says(1, "two");
    assert_eq!(follower.line(), "two\n");
    guest.complete(0, None);

    let output = follower.end();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[test]
fn following_with_json_prints_submission_events_and_job_one_per_line() {
    let host = Host::start();
    let follower = host.begin(&["job", "submit", "--prompt", "do it", "--follow", "--json"]);
    let guest = host.take();
    guest.says(0, "one");
    guest.complete(0, None);

    let lines = lines(&follower.end());

    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0], json!({"runId": guest.run(), "isNew": true}));
    assert_eq!(
        (&lines[1]["position"], &lines[1]["event"]["type"]),
        (&json!(1), &json!("assistant"))
    );
    assert_eq!((&lines[2]["status"], &lines[2]["exitCode"]), (&json!("completed"), &json!(0)));
}

#[test]
fn a_key_makes_one_job_of_several_submissions() {
    let host = Host::start();
    let first = host.submit(&["--key", "nightly"]);

    assert_eq!(host.submit(&["--key", "nightly"]), first);
    let again = host.ok(&["job", "submit", "--prompt", "do it", "--key", "nightly", "--json"]);
    assert_eq!(again, format!("{{\"runId\":\"{first}\",\"isNew\":false}}\n"));
    let other = host.run(&["job", "submit", "--prompt", "something else", "--key", "nightly"]);
    assert_eq!(other.status.code(), Some(1));
    assert!(
        stderr(&other).contains("the key belongs to a job with a different submission"),
        "{}",
        stderr(&other)
    );
}

#[test]
fn a_prompt_comes_from_a_file_or_from_standard_input() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("task.md");
    fs::write(&path, "--help\nme").unwrap();
    host.ok(&["job", "submit", "--prompt-file", path.to_str().unwrap()]);
    let mut command = host.command(&["job", "submit", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from elsewhere").unwrap();
    assert!(child.wait().unwrap().success());

    assert_eq!(host.take().context()["prompt"], "--help\nme");
    assert_eq!(host.take().context()["prompt"], "from elsewhere");
}

#[test]
fn a_secret_of_this_process_reaches_the_job_only() {
    let host = Host::start();
    let flags = ["job", "submit", "--prompt", "do it", "--secret", "API_KEY", "--env", "LANG=C"];
    let mut command = host.command(&[&flags[..], &["--follow"]].concat());
    command.env("API_KEY", "hunter2-very-secret");
    let follower = crate::harness::Background::start(command);
    let guest = host.take();
    guest.says(0, "the key is hunter2-very-secret");

    let environment = &guest.context()["environment"];
    assert_eq!(environment, &json!({"API_KEY": "hunter2-very-secret", "LANG": "C"}));
    assert_eq!(guest.context()["secretValues"], json!(["hunter2-very-secret"]));
    guest.complete(1, Some("hunter2-very-secret is wrong"));
    let output = follower.end();
    assert_eq!(stdout(&output), "the key is ***\n");
    assert!(stderr(&output).ends_with("exit code 1: *** is wrong\n"), "{}", stderr(&output));
    let state = host.stop();
    assert_eq!(holding(state.path(), "hunter2"), Vec::<String>::new());
}

#[test]
fn a_secret_is_read_from_a_file() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("key"), "hunter2\n").unwrap();
    let file = format!("API_KEY={}", dir.path().join("key").display());
    host.submit(&["--secret-file", &file]);
    assert_eq!(host.take().context()["environment"]["API_KEY"], "hunter2");
}

#[test]
fn a_missing_secret_is_an_error_before_the_submission() {
    let host = Host::start();
    let mut command = host.command(&["job", "submit", "--prompt", "x", "--secret", "API_KEY"]);
    let output = command.env_remove("API_KEY").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("variable API_KEY is not set"), "{}", stderr(&output));
    assert_eq!(host.ok(&["job", "ls", "--json"]), "[]\n");
}

#[test]
fn a_job_resumes_the_session_and_artifacts_of_another() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "x").unwrap();
    let given = format!("app={}:/w", dir.path().display());
    let first = host.submit(&["--artifact", &given]);
    let guest = host.take();
    let mount = guest.mounts()[0].clone();
    guest.checkpoint(&[(&mount, mount["versionId"].as_str().unwrap())]);
    guest.complete(0, None);

    host.submit(&["--resume", &first[..8]]);

    let next = host.take();
    assert_eq!(next.context()["resumeSession"]["sessionId"], "session-1");
    assert_eq!(next.mounts()[0]["versionId"], mount["versionId"]);
    assert_eq!((&mount["name"], &mount["mountPath"]), (&json!("app"), &json!("/w")));
}

/// The files below a folder that hold a text.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path, text));
        } else if path.is_file() {
            let bytes = fs::read(&path).unwrap();
            let has = bytes.windows(text.len()).any(|window| window == text.as_bytes());
            found.extend(has.then(|| path.display().to_string()));
        }
    }
    found
}

#[test]
fn a_job_with_a_profile_of_no_runner_is_queued_with_a_reason() {
    let host = Host::start();
    host.submit(&[]);
    // Its runner has `default`.
    host.take().complete(0, None);
    let reason = "no runner has profile `big`: there is default";

    let output = host.run(&["job", "submit", "--prompt", "do it", "--profile", "big"]);

    let run = stdout(&output).trim_end().to_owned();
    assert_eq!(stderr(&output), format!("runner: the job waits: {reason}\n"));
    assert_eq!(host.job(&run).waits.as_deref(), Some(reason));
    let shown = host.ok(&["job", "show", &run]);
    assert!(shown.contains("queued, no runner\nwaits "), "{shown}");
    assert!(host.ok(&["job", "ls"]).contains("queued, no runner"));
    let mut follower = host.begin(&["job", "events", "--follow", &run]);
    assert_eq!(follower.remark(), format!("runner: the job waits: {reason}\n"));
    let quiet = host.run(&["--quiet", "job", "submit", "--prompt", "do it", "--profile", "big"]);
    assert_eq!(stderr(&quiet), "");
}
