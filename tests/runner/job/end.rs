//! How jobs end, and how one stops watching them.

use nix::sys::signal::Signal;
use platform::Status;
use serde_json::{Value, json};

use crate::harness::{Host, stderr, stdout};

#[test]
fn waiting_ends_with_the_jobs_exit_code() {
    let host = Host::start();
    let run = host.submit(&[]);
    let waiter = host.begin(&["job", "wait", &run]);
    host.take().complete(9, Some("it broke"));

    let output = waiter.end();

    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(9), ""));
    assert_eq!(stderr(&output), format!("job {run} failed, exit code 9: it broke\n"));
}

#[test]
fn wait_with_json_prints_the_ended_job() {
    let host = Host::start();
    let run = host.submit(&[]);
    host.take().complete(0, None);
    let job: Value = serde_json::from_str(&host.ok(&["job", "wait", "--json", &run])).unwrap();
    assert_eq!((&job["runId"], &job["status"]), (&json!(run), &json!("completed")));
}

#[test]
fn a_wait_that_times_out_exits_with_125() {
    let host = Host::start();
    let run = host.submit(&[]);
    let output = host.run(&["job", "wait", "--timeout", "1ms", &run]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("did not end before the deadline"), "{}", stderr(&output));
}

#[test]
fn a_queued_job_is_cancelled_at_once_and_has_no_exit_code() {
    let host = Host::start();
    let run = host.submit(&[]);

    assert_eq!(host.ok(&["job", "cancel", &run[..8]]), format!("{run}\n"));

    let waited = host.run(&["job", "wait", &run]);
    assert_eq!(waited.status.code(), Some(125));
    assert_eq!(stderr(&waited), format!("job {run} cancelled\n"));
    let again = host.run(&["job", "cancel", &run]);
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(stderr(&again), "runner: the job has ended\n");
}

#[test]
fn a_running_job_is_cancelled_by_its_runner() {
    let host = Host::start();
    let run = host.submit(&[]);
    let guest = host.take();

    host.ok(&["job", "cancel", &run]);

    assert_eq!(host.cancelled()[0].to_string(), run);
    assert!(host.ok(&["job", "show", &run]).contains("running, to be cancelled"));
    guest.complete(143, None);
    assert_eq!(host.run(&["job", "wait", &run]).status.code(), Some(143));
    assert_eq!(host.job(&run).status, Status::Cancelled);
}

#[test]
fn a_stopped_follower_prints_how_to_continue_and_the_job_runs_on() {
    let host = Host::start();
    let mut follower = host.begin(&["job", "submit", "--prompt", "do it", "--follow", "--quiet"]);
    let guest = host.take();
    let run = guest.run();
    guest.says(0, "one");
    assert_eq!(follower.line(), "one\n");

    follower.signal(Signal::SIGINT);

    let output = follower.end();
    let told = format!(
        "runner: stopped following; job {run} continues: `runner job events --follow {run}`\n"
    );
    assert_eq!((output.status.code(), stderr(&output)), (Some(130), told));
    assert_eq!(host.job(&run).status, Status::Running);
    assert!(!host.job(&run).cancel_requested);
    guest.complete(0, None);
    assert_eq!(host.ok(&["job", "events", "--follow", &run]), "one\n");
}

#[test]
fn a_follower_with_a_blocked_output_is_stopped_by_a_signal() {
    let host = Host::start();
    let run = host.submit(&[]);
    let guest = host.take();
    let mut follower = host.begin(&["job", "events", "--follow", &run]);
    guest.says(0, "one");
    assert_eq!(follower.line(), "one\n");
    // More than a pipe takes.
    guest.says(1, &"x".repeat(200_000));

    follower.signal(Signal::SIGTERM);

    assert_eq!(follower.end().status.code(), Some(143));
}

#[test]
fn prune_removes_old_jobs_with_and_without_a_platform() {
    let host = Host::start();
    let first = host.submit(&[]);
    host.take().complete(0, None);

    let young = host.run(&["job", "prune"]);
    assert_eq!(stderr(&young), "removed 0 jobs, 0 versions of artifacts and 0 files of 0 MiB\n");
    let pruned: Value =
        serde_json::from_str(&host.ok(&["job", "prune", "--older-than", "1ms", "--json"])).unwrap();
    assert_eq!(pruned["jobs"], 1);
    assert_eq!(host.run(&["job", "show", &first]).status.code(), Some(1));

    host.submit(&[]);
    host.take().complete(0, None);
    let state = host.stop();
    let mut alone = crate::harness::runner(state.path(), &["job", "prune", "--older-than", "1ms"]);
    let output = alone.output().unwrap();
    assert!(stderr(&output).starts_with("removed 1 jobs"), "{}", stderr(&output));
}

const GONE: &str = "runner: lost the platform: waiting for it to serve again\n";
const BACK: &str = "runner: the platform is back\n";

#[test]
fn a_follower_outlasts_a_restart_of_the_platform_and_sees_each_event_once() {
    let host = Host::start();
    let run = host.submit(&[]);
    let mut follower = host.begin(&["job", "events", "--follow", &run]);
    let guest = host.take();
    guest.says(0, "one");
    assert_eq!(follower.line(), "one\n");
    let claimed = guest.into_claimed();

    let state = host.stop();
    assert_eq!(follower.remark(), GONE);
    let host = Host::start_in(state);
    let guest = host.again(claimed);
    guest.says(1, "two");
    guest.complete(0, None);

    let output = follower.end();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((stdout(&output).as_str(), stderr(&output).as_str()), ("two\n", BACK));
}

#[test]
fn a_follower_gets_the_end_of_its_job_from_a_restarted_platform() {
    let host = Host::start();
    let mut follower = host.begin(&["job", "submit", "--prompt", "do it", "--follow", "--json"]);
    assert_eq!(value_of(&follower.line())["isNew"], true);
    let claimed = host.take().into_claimed();

    let state = host.stop();
    assert_eq!(follower.remark(), GONE);
    let host = Host::start_in(state);
    host.again(claimed).complete(7, Some("it broke"));

    let output = follower.end();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(value_of(&stdout(&output))["exitCode"], 7);
    assert!(stderr(&output).starts_with(BACK), "{}", stderr(&output));
}

#[test]
fn a_follower_that_waits_for_the_platform_is_stopped_by_a_signal() {
    let host = Host::start();
    let run = host.submit(&[]);
    let mut waiter = host.begin(&["job", "logs", "--follow", &run]);
    host.take().post("telemetry", json!({"systemLog": "begun\n"}));
    assert_eq!(waiter.line(), "begun\n");
    let _state = host.stop();
    assert_eq!(waiter.remark(), GONE);

    waiter.signal(Signal::SIGINT);

    let output = waiter.end();
    assert_eq!(output.status.code(), Some(130));
    assert!(stderr(&output).starts_with("runner: stopped following; job"), "{}", stderr(&output));
}

#[test]
fn a_follower_fails_with_125_if_the_platform_does_not_come_back() {
    let host = Host::start();
    let mut follower = host.begin(&[
        "job",
        "submit",
        "--prompt",
        "do it",
        "--follow",
        "--quiet",
        "--reconnect-timeout",
        "1ms",
    ]);
    let guest = host.take();
    guest.says(0, "one");
    assert_eq!(follower.line(), "one\n");
    let run = guest.run();

    let _state = host.stop();

    let output = follower.end();
    assert_eq!(output.status.code(), Some(125));
    let told = stderr(&output);
    assert!(
        told.starts_with(&format!("runner: lost the platform while following job {run}")),
        "{told}"
    );
    assert!(told.contains("`runner job events --follow"), "{told}");
}

fn value_of(text: &str) -> Value {
    serde_json::from_str(text.trim_end()).unwrap()
}
