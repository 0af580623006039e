//! VMs that are ready before a job wants them, and VMs that are kept for their session.

use std::fs;

use platform::{Client, Job, RunId, Status, Submission};

use crate::crash_point::LOG_FILTER;
use crate::host::Host;
use crate::job::leave;
use crate::runner::{Runner, Running, text};

/// A service that keeps so many VMs.
fn serve(runner: &Runner, parked: u32, warm: u32) -> Running {
    let config = format!(
        "[runner]\ncpu_overcommit = 32.0\nmax_concurrent = 2\nparked = {parked}\n\
         [profiles.default]\nmemory_mib = 256\nmock_claude = true\nwarm = {warm}\n"
    );
    let path = runner.state().join("runner.toml");
    fs::write(&path, config).unwrap();
    let mut service = runner.service(&["start", "--local", "--config", path.to_str().unwrap()]);
    service.env("RUST_LOG", LOG_FILTER);
    Running::ready(service)
}

fn submit(runner: &Runner, prompt: &str, resume: Option<RunId>) -> RunId {
    let submission = Submission { prompt: prompt.to_owned(), resume, ..Submission::default() };
    Client::new(runner.state()).submit(&submission).unwrap().run_id
}

/// Waits for a job's good end.
fn end(runner: &Runner, run: RunId) -> Job {
    let job = Client::new(runner.state()).wait(run, None).unwrap();
    let log = fs::read_to_string(runner.log()).unwrap();
    assert_eq!((job.status, &job.error), (Status::Completed, &None), "{log}");
    job
}

fn events(runner: &Runner, run: RunId) -> String {
    let client = Client::new(runner.state());
    let events = client.follow(run, -1).map(|event| serde_json::to_string(&event.unwrap()));
    events.collect::<Result<Vec<_>, _>>().unwrap().join("\n")
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_warm_vm_is_assigned_to_a_job_and_replaced() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let service = serve(&runner, 0, 1);
    runner.wait_for_log(&service, 0, "a vm is warm; ");
    assert!(runner.succeed(&["ps"]).contains("(warm)"));
    let id = runner.vms().remove(0);
    let refused = runner.run(&["exec", &id, "--", "true"]);
    assert!(text(&refused.stderr).contains("is warm: no command can run in it"), "{refused:?}");

    let begun = fs::read_to_string(runner.log()).unwrap().len();
    let run = submit(&runner, "uname -n; date +%Y", None);
    end(&runner, run);

    let name = format!("job-{}", &run.to_string()[..8]);
    let seen = events(&runner, run);
    assert!(seen.contains(&name) && seen.contains("\\n20"), "{seen}");
    let claimed = format!("a warm vm is claimed; vm={id}");
    assert!(fs::read_to_string(runner.log()).unwrap().contains(&claimed));
    runner.wait_for_log(&service, begun, "a vm is warm; ");
    leave(service);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_vm_of_a_session_is_parked_and_reused_by_its_next_job() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let service = serve(&runner, 1, 0);
    let first = submit(&runner, "echo here > /tmp/mark; sleep 1000 & uname -n", None);
    end(&runner, first);
    runner.wait_for_log(&service, 0, "a vm is parked; ");
    assert!(runner.succeed(&["ps"]).contains("(parked)"));
    let id = runner.vms().remove(0);
    let refused = runner.run(&["exec", &id, "--", "true"]);
    assert!(text(&refused.stderr).contains("is parked"), "{refused:?}");

    // Another session's job does not find it, and goes its own way.
    let other = submit(&runner, "test ! -e /tmp/mark", None);
    let words = "cat /tmp/mark; echo at $(date +%s); uname -n; grep oom_kill /proc/vmstat";
    let second = submit(&runner, words, Some(first));
    end(&runner, other);
    end(&runner, second);

    let seen = events(&runner, second);
    let name = format!("job-{}", &second.to_string()[..8]);
    assert!(seen.contains("here\\nat ") && seen.contains(&name), "{seen}");
    let at = seen.split("here\\nat ").nth(1).unwrap().split('\\').next().unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    assert!(now - at.parse::<u64>().unwrap() < 3600, "the clock stood still: {at}");
    assert!(seen.contains("oom_kill 0"), "to take its memory cost the guest a process: {seen}");
    leave(service);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn warm_and_parked_vms_of_a_killed_runner_are_reclaimed() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let mut service = serve(&runner, 1, 1);
    runner.wait_for_log(&service, 0, "a vm is warm; ");
    let begun = fs::read_to_string(runner.log()).unwrap().len();
    end(&runner, submit(&runner, "true", None));
    runner.wait_for_log(&service, 0, "a vm is parked; ");
    runner.wait_for_log(&service, begun, "a vm is warm; ");
    assert_eq!(runner.vms().len(), 2);
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    runner.succeed(&["gc"]);
    runner.assert_nothing_left(&before);
}

/// The same VM stands still and goes on a hundred times, its memory taken and given back each time.
#[test]
#[ignore = "needs root and QEMU"]
fn a_vm_can_be_parked_a_hundred_times() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let printed = runner
        .succeed(&["bench", "--start", "parked", "--count", "100", "--memory", "160", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["succeeded"], 100, "{printed}");
    runner.assert_nothing_left(&before);
}
