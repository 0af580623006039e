//! Jobs, from their submission to their checkpoint: `runner start --local` and the mock agent.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use platform::{Artifact, Client, Job, RunId, Status, Submission};

use crate::host::Host;
use crate::runner::{Runner, Running, text};

pub(crate) const CONFIG: &str = r#"
[runner]
cpu_overcommit = 32.0
max_concurrent = 4
cancel_grace = "20s"
[profiles.default]
memory_mib = 256
mock_claude = true
[profiles.small]
memory_mib = 256
mock_claude = true
disk = "512M"
limits = { connections = 9 }
[profiles.alone]
memory_mib = 256
mock_claude = true
network = "none"
"#;

/// Starts the service, and returns when it is ready.
fn serve(runner: &Runner) -> Running {
    serve_with(runner, CONFIG)
}

pub(crate) fn serve_with(runner: &Runner, config: &str) -> Running {
    let path = runner.state().join("runner.toml");
    fs::write(&path, config).unwrap();
    Running::ready(runner.service(&["start", "--local", "--config", path.to_str().unwrap()]))
}

/// Lets the service end by itself, after its jobs.
pub(crate) fn leave(mut service: Running) {
    service.signal(libc::SIGTERM);
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
}

fn client(runner: &Runner) -> Client {
    Client::new(runner.state())
}

fn prompt(text: &str) -> Submission {
    Submission { prompt: text.to_owned(), ..Submission::default() }
}

fn submit(runner: &Runner, submission: &Submission) -> RunId {
    client(runner).submit(submission).unwrap().run_id
}

/// Waits for a job's end.
fn end(runner: &Runner, run: RunId) -> Job {
    client(runner).wait(run, None).unwrap()
}

pub(crate) fn log(runner: &Runner) -> String {
    fs::read_to_string(runner.log()).unwrap()
}

/// All events of a job, as JSON.
fn events(runner: &Runner, run: RunId) -> String {
    let events = client(runner).follow(run, -1).map(|event| serde_json::to_string(&event.unwrap()));
    events.collect::<Result<Vec<_>, _>>().unwrap().join("\n")
}

/// A file of an artifact as the job's checkpoint has it.
fn kept(runner: &Runner, run: RunId, artifact: &str, file: &str) -> Option<String> {
    let mut archive = Vec::new();
    client(runner).artifact(run, artifact, &mut archive).unwrap();
    let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(&archive[..]));
    tar.entries().unwrap().find_map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().into_owned();
        let mut content = String::new();
        (path.strip_prefix("./").unwrap_or(&path) == Path::new(file))
            .then(|| entry.read_to_string(&mut content).unwrap())
            .map(|_| content)
    })
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_job_runs_to_its_checkpoint_and_another_resumes_it() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let service = serve(&runner);
    let source = runner.state().join("repo");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("a.txt"), "one\n").unwrap();
    let mount = client(&runner)
        .upload(&Artifact {
            name: "repo".into(),
            folder: source,
            mount_path: "/home/user/workspace".into(),
        })
        .unwrap();

    let first = submit(
        &runner,
        &Submission {
            artifacts: vec![mount],
            secrets: BTreeMap::from([("TOKEN".into(), "swordfish-0815".into())]),
            ..prompt("cat a.txt; echo two >> a.txt; echo \"it is $TOKEN\"; uname -n")
        },
    );
    let job = end(&runner, first);
    assert_eq!((job.status, job.error), (Status::Completed, None), "{}", log(&runner));
    let seen = events(&runner, first);
    assert!(seen.contains("\"result\"") && seen.contains("it is ***"), "{seen}");
    assert_eq!(job.missing_events, 0);
    assert_eq!(kept(&runner, first, "repo", "a.txt").as_deref(), Some("one\ntwo\n"));

    let second = submit(
        &runner,
        &Submission {
            resume: Some(first),
            ..prompt("cat a.txt; wc -l ~/.claude/projects/*/*.jsonl")
        },
    );
    let job = end(&runner, second);
    assert_eq!((job.status, job.error), (Status::Completed, None), "{}", log(&runner));
    assert!(events(&runner, second).contains("one\\ntwo"));
    assert_eq!(
        client(&runner).checkpoint(first).unwrap().session_id,
        client(&runner).checkpoint(second).unwrap().session_id
    );

    leave(service);
    let told = log(&runner);
    for line in told.lines().filter(|line| line.contains("job finished")) {
        println!("{line}");
    }
    assert_eq!(told.matches("job claimed; run=").count(), 2, "{told}");
    assert_eq!(told.matches(" exit_code=0 claim_ms=").count(), 2, "{told}");
    assert!(!told.contains("it is $TOKEN"), "a prompt is in the log: {told}");
    let holders = holders(runner.state(), "swordfish-0815");
    // A session's history comes back as it was, with what the agent printed.
    let is_history = |path: &String| path.contains("/control/blobs/");
    assert_eq!(holders.into_iter().filter(|path| !is_history(path)).collect::<Vec<_>>(), [""; 0]);
    assert!(fs::read_dir(runner.state().join("outcomes")).unwrap().next().is_none());
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn mount_points_outside_the_home_belong_to_the_jobs_user() {
    let runner = Runner::new();
    let service = serve(&runner);
    let folder = runner.state().join("repo");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a.txt"), "one\n").unwrap();
    let at = |name: &str, path: &str| {
        let (name, folder, mount_path) = (name.to_owned(), folder.clone(), path.to_owned());
        client(&runner).upload(&Artifact { name, folder, mount_path }).unwrap()
    };
    // One is not there yet, one is the image's, and to one a link leads.
    let artifacts = vec![at("new", "/srv/deep/repo"), at("old", "/opt")];
    let linked = vec![at("linked", "/var/run/repo")];
    let words =
        "cat /opt/a.txt && echo two >>/srv/deep/repo/a.txt && stat --format %U:%a /srv/deep /opt";

    let run = submit(&runner, &Submission { artifacts, ..prompt(words) });
    let astray = submit(&runner, &Submission { artifacts: linked, ..prompt("true") });

    let job = end(&runner, run);
    assert_eq!((job.status, job.error), (Status::Completed, None), "{}", log(&runner));
    let seen = events(&runner, run);
    assert!(seen.contains("one\\nroot:755\\nuser:755"), "{seen}");
    assert_eq!(kept(&runner, run, "new", "a.txt").as_deref(), Some("one\ntwo\n"));
    let error = end(&runner, astray).error.unwrap();
    assert!(error.contains("cannot open /var/run"), "{error}");
    leave(service);
}

/// The runner's folder `repo` with one file, as an artifact at the job's workspace.
fn workspace(runner: &Runner) -> platform::Mount {
    let folder = runner.state().join("repo");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("a.txt"), "one\n").unwrap();
    let (name, mount_path) = ("repo".into(), "/home/user/workspace".into());
    client(runner).upload(&Artifact { name, folder, mount_path }).unwrap()
}

#[test]
#[ignore = "needs root and QEMU"]
fn failed_and_cancelled_jobs_keep_a_checkpoint_that_can_be_resumed() {
    let runner = Runner::new();
    let service = serve(&runner);
    let artifacts = vec![workspace(&runner)];
    let failing = prompt("echo half >> a.txt; exit 7");
    let failed = submit(&runner, &Submission { artifacts: artifacts.clone(), ..failing });
    let waiting = submit(&runner, &Submission { artifacts, ..prompt("sleep 1000") });
    client(&runner).follow(waiting, -1).next().unwrap().unwrap();
    client(&runner).cancel(waiting).unwrap();

    let (failed_job, cancelled_job) = (end(&runner, failed), end(&runner, waiting));
    assert_eq!((failed_job.status, failed_job.exit_code), (Status::Failed, Some(7)));
    assert_eq!(cancelled_job.status, Status::Cancelled, "{:?}", cancelled_job.error);
    assert!(failed_job.checkpoint_partial && cancelled_job.checkpoint_partial, "{}", log(&runner));
    assert_eq!(kept(&runner, failed, "repo", "a.txt").as_deref(), Some("one\nhalf\n"));
    assert_eq!(kept(&runner, waiting, "repo", "a.txt").as_deref(), Some("one\n"));

    let next = Submission { resume: Some(failed), ..prompt("cat a.txt; rm -r ../workspace") };
    let next = submit(&runner, &next);
    let job = end(&runner, next);
    assert_eq!((job.status, job.error), (Status::Completed, None), "{}", log(&runner));
    assert!(events(&runner, next).contains("one\\nhalf"));
    let gone = "artifact repo: saved as empty: /home/user/workspace is no longer a folder";
    assert_eq!(job.warnings, [gone]);
    leave(service);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_full_disk_loses_neither_a_success_nor_a_partial_checkpoint() {
    let runner = Runner::new();
    let service = serve(&runner);
    let fill = "head -c 8M /dev/urandom > big; dd if=/dev/zero of=$HOME/fill bs=1M 2>/dev/null";
    let words = [format!("{fill}; truncate -s -128K $HOME/fill"), format!("{fill}; exit 7")];
    let runs = words.map(|words| {
        let (artifacts, profile) = (vec![workspace(&runner)], Some("small".into()));
        submit(&runner, &Submission { artifacts, profile, ..prompt(&words) })
    });
    let reason = "the disk is full (512 MiB): give it more with `disk`";

    let [good, bad] = runs.map(|run| end(&runner, run));

    assert_eq!((good.status, good.error), (Status::Completed, None), "{}", log(&runner));
    assert_eq!(good.warnings, [reason]);
    assert_eq!(bad.status, Status::Failed);
    assert!(bad.error.as_ref().unwrap().ends_with(reason), "{:?}", bad.error);
    assert!(bad.checkpoint_partial, "{}", log(&runner));
    for run in runs {
        let mut archive = Vec::new();
        client(&runner).artifact(run, "repo", &mut archive).unwrap();
        assert!(archive.len() > 8 << 20, "{}", archive.len());
    }
    leave(service);
}

/// The files below a folder that have `needle` in them.
pub(crate) fn holders(folder: &Path, needle: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        // The guest's own: its disk, the image, and a VM that was saved before there was a job.
        if path.ends_with("vmm") || path.ends_with("snapshots") {
            continue;
        }
        if kind.is_dir() {
            found.extend(holders(&path, needle));
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            let has = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            found.extend(has.then(|| path.display().to_string()));
        }
    }
    found
}

#[test]
#[ignore = "needs root and QEMU"]
fn while_a_job_runs_its_secret_is_on_no_console_log_or_command_line() {
    let runner = Runner::new();
    let service = serve(&runner);
    let secret = "swordfish-4711";
    let secrets = BTreeMap::from([("TOKEN".into(), secret.into())]);
    let run = submit(&runner, &Submission { secrets, ..prompt("echo $TOKEN >&2; sleep 1000") });
    client(&runner).follow(run, -1).next().unwrap().unwrap();

    let found = holders(runner.state(), secret);
    let all = fs::read_dir("/proc").unwrap().flatten();
    let lines = all.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let shown = lines.filter(|line| text(line).contains(secret)).count();

    // The platform's own copy, until the job ends.
    let is_meant = |path: &String| path.contains("/control/secrets/");
    assert_eq!(found.into_iter().filter(|path| !is_meant(path)).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(shown, 0);
    client(&runner).cancel(run).unwrap();
    end(&runner, run);
    leave(service);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_job_without_a_network_reaches_the_platform_and_nothing_else() {
    let runner = Runner::new();
    let service = serve(&runner);
    let prompt = prompt("exec 3<>/dev/tcp/100.0.0.2/80 || exit 5");
    let run = submit(&runner, &Submission { profile: Some("alone".into()), ..prompt });
    let job = end(&runner, run);
    assert_eq!(job.exit_code, Some(5), "{:?}", job.error);
    assert!(events(&runner, run).contains("\"result\""));
    leave(service);
}

#[test]
#[ignore = "needs root and QEMU"]
fn the_profile_sets_the_size_of_a_jobs_disk() {
    let runner = Runner::new();
    let service = serve(&runner);
    let submission = prompt("df --block-size=1M --output=size / | tail -n 1 | tr -dc 0-9");
    let run = submit(&runner, &Submission { profile: Some("small".into()), ..submission });
    assert_eq!(end(&runner, run).status, Status::Completed);
    let seen = events(&runner, run);
    // What ext4 keeps for itself is some percent.
    let size = seen.split("\"content\":\"").nth(1).unwrap().split('"').next().unwrap();
    assert!((400..=512).contains(&size.parse().unwrap()), "{seen}");
    leave(service);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_job_that_exhausts_the_memory_of_its_vm_fails_with_that_reason() {
    let runner = Runner::new();
    let service = serve(&runner);
    let run = submit(&runner, &prompt("tail /dev/zero || exit 9"));
    let job = end(&runner, run);
    let error = job.error.unwrap();
    assert_eq!(job.exit_code, Some(9), "{error}");
    assert!(error.contains(": the VM ran out of memory (256 MiB) and its kernel"), "{error}");
    leave(service);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_cancelled_job_ends_after_sigterm() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let service = serve(&runner);
    let run = submit(&runner, &prompt("echo begun; sleep 1000"));
    // The first event says that the agent runs.
    client(&runner).follow(run, -1).next().unwrap().unwrap();

    client(&runner).cancel(run).unwrap();

    let job = end(&runner, run);
    assert_eq!(job.status, Status::Cancelled, "{:?}", job.error);
    assert_eq!(job.error.as_deref(), Some("the job was cancelled"));
    leave(service);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_second_signal_kills_the_jobs_and_is_logged() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let mut service = serve(&runner);
    let run = submit(&runner, &prompt("sleep 1000"));
    client(&runner).follow(run, -1).next().unwrap().unwrap();

    service.signal(libc::SIGTERM);
    service.signal(libc::SIGINT);

    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    let service = serve(&runner);
    let job = end(&runner, run);
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(137), Some("runner stopped")));
    leave(service);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn twenty_concurrent_jobs_succeed() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let room = "max_concurrent = 20\nmemory_mib = 8192";
    let service = serve_with(&runner, &CONFIG.replace("max_concurrent = 4", room));
    let runs: Vec<_> = (0..20).map(|n| submit(&runner, &prompt(&format!("echo {n}")))).collect();
    let ends: Vec<_> = runs.iter().map(|run| end(&runner, *run)).collect();
    let errors: Vec<_> = ends.iter().filter_map(|job| job.error.clone()).collect();
    assert_eq!(errors, Vec::<String>::new());
    leave(service);
    assert_eq!(most_at_once(&log(&runner)), 20);
    runner.assert_nothing_left(&before);
}

/// How many jobs a service had at once at most, as it logged them.
fn most_at_once(log: &str) -> usize {
    let mut running = 0;
    let counts = log.lines().map(|line| {
        running += usize::from(line.contains("job claimed; "));
        running -= usize::from(line.contains("job finished; "));
        running
    });
    counts.max().unwrap_or_default()
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_second_service_on_the_same_state_is_refused() {
    let runner = Runner::new();
    let service = serve(&runner);
    let output = runner.run(&["start", "--local"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("another `runner start` serves"));
    leave(service);
}
