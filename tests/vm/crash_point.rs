//! Kills runners, and cancels jobs, at each crash point: a line in the runner's log. This makes the point independent
//! of the host's speed.

use std::fs;
use std::os::fd::AsFd as _;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use platform::{Artifact, Client, Job, RunId, Status, Submission};

use crate::host::Host;
use crate::job::{CONFIG, leave};
use crate::remote_platform::RemotePlatform;
use crate::runner::{Runner, Running};

/// The log filter with which a service logs every crash point.
pub(crate) const LOG_FILTER: &str = "info,service=debug,microvm=debug";

/// The log lines of a job's crash points, in order.
const CLAIM: &str = "stage begins; stage=claim";
const BEFORE_THE_AGENT: [&str; 7] = [
    "job claimed; run=",
    "stage begins; stage=vm_create",
    "network leased; ",
    "disk cloned; ",
    "vm launched; ",
    "stage begins; stage=files",
    "stage begins; stage=storage_download",
];
const AGENT: &str = "stage begins; stage=agent";
const OUTCOME: &str = "stage begins; stage=outcome";
const WRITTEN: &str = "outcome written; run=";

/// A runner with the jobs of its embedded platform, or of a remote one.
struct Fixture {
    runner: Runner,
    platform: Option<RemotePlatform>,
    before: Host,
}

impl Fixture {
    fn local() -> Self {
        let runner = Runner::new();
        let before = Host::look(runner.state());
        Self { runner, platform: None, before }
    }

    fn remote() -> Self {
        let fixture = Self::local();
        Self { platform: Some(RemotePlatform::start(&fixture.runner)), ..fixture }
    }

    fn serve(&self) -> Running {
        if let Some(platform) = &self.platform {
            return platform.runner(&self.runner);
        }
        let path = self.runner.state().join("runner.toml");
        fs::write(&path, CONFIG).unwrap();
        let path = path.to_str().unwrap();
        let mut service = self.runner.service(&["start", "--local", "--config", path]);
        service.env("RUST_LOG", LOG_FILTER);
        Running::ready(service)
    }

    fn client(&self) -> Client {
        let local = || Client::new(self.runner.state());
        self.platform.as_ref().map_or_else(local, RemotePlatform::client)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.runner.log()).unwrap()
    }

    /// Submits a job with an artifact, and returns once the job has reached `crash_point`.
    fn submit(&self, service: &Running, prompt: &str, crash_point: &str) -> RunId {
        let before = self.log().len();
        let folder = self.runner.state().join("repo");
        fs::create_dir_all(&folder).unwrap();
        let mount_path = "/home/user/workspace".into();
        let mount = self.client().upload(&Artifact { name: "repo".into(), folder, mount_path });
        let (prompt, artifacts) = (prompt.to_owned(), vec![mount.unwrap()]);
        let submission = Submission { prompt, artifacts, ..Submission::default() };
        let run = self.client().submit(&submission).unwrap().run_id;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        inotify.add_watch(&self.runner.log(), AddWatchFlags::IN_MODIFY).unwrap();
        loop {
            let log = self.log();
            let log = log.get(before..).unwrap();
            if log.contains(crash_point) {
                return run;
            }
            let is_finished = log.contains(&format!("job finished; run={run}"));
            assert!(!is_finished, "`{crash_point}` was not reached: {log}");
            service.wait_beside(inotify.as_fd());
            inotify.read_events().unwrap();
        }
    }

    fn end(&self, run: RunId) -> Job {
        self.client().wait(run, None).unwrap()
    }

    /// Kills the runner when a job reaches `crash_point`. Returns the job as the next runner completes it.
    fn killed_at(&self, crash_point: &str) -> Job {
        let mut service = self.serve();
        let run = self.submit(&service, "echo hello", crash_point);
        self.kill_and_restart(&mut service, run)
    }

    fn kill_and_restart(&self, service: &mut Running, run: RunId) -> Job {
        service.signal(libc::SIGKILL);
        service.child.wait().unwrap();
        let service = self.serve();
        let job = self.end(run);
        leave(service);
        assert!(fs::read_dir(self.runner.state().join("outcomes")).unwrap().next().is_none());
        self.runner.assert_nothing_left(&self.before);
        job
    }

    /// Kills the runner when the agent runs.
    fn killed_while_the_agent_runs(&self, prompt: &str) -> Job {
        let mut service = self.serve();
        let run = self.submit(&service, prompt, AGENT);
        self.client().follow(run, -1).next().unwrap().unwrap();
        self.kill_and_restart(&mut service, run)
    }

    fn cancel_at_each_crash_point(self) {
        let service = self.serve();
        for crash_point in [CLAIM].into_iter().chain(BEFORE_THE_AGENT).chain([AGENT]) {
            let run = self.submit(&service, "sleep 1000", crash_point);
            self.client().cancel(run).unwrap();
            assert_eq!(self.end(run).status, Status::Cancelled, "cancelled at `{crash_point}`");
        }
        leave(service);
        self.runner.assert_nothing_left(&self.before);
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_killed_runner_runs_its_embedded_platforms_jobs_again_at_every_crash_point() {
    let fixture = Fixture::local();
    let all = [CLAIM].into_iter().chain(BEFORE_THE_AGENT).chain([AGENT, OUTCOME, WRITTEN]);
    for crash_point in all {
        let job = fixture.killed_at(crash_point);
        assert_eq!((job.status, job.error), (Status::Completed, None), "killed at `{crash_point}`");
        // A job whose outcome is in the journal is not run again.
        assert!(
            job.attempt <= if crash_point == WRITTEN { 1 } else { 2 },
            "killed at `{crash_point}`"
        );
    }
    let job = fixture.killed_while_the_agent_runs("sleep 3");
    assert_eq!((job.status, job.attempt), (Status::Completed, 2));
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_killed_runner_reports_its_job_to_a_remote_platform_at_every_crash_point() {
    let fixture = Fixture::remote();
    let died =
        |job: &Job| job.exit_code == Some(1) && job.error.as_deref() == Some("the runner died");
    for crash_point in BEFORE_THE_AGENT.into_iter().chain([AGENT]) {
        let job = fixture.killed_at(crash_point);
        assert!(died(&job), "killed at `{crash_point}`: {:?} {:?}", job.status, job.error);
    }
    assert!(died(&fixture.killed_while_the_agent_runs("sleep 1000")));
    // At these points the platform may already have the claim or the outcome, or not.
    for crash_point in [CLAIM, OUTCOME] {
        let job = fixture.killed_at(crash_point);
        assert!(died(&job) || job.status == Status::Completed, "{crash_point}: {:?}", job.error);
    }
    assert_eq!(fixture.killed_at(WRITTEN).status, Status::Completed);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_job_can_be_cancelled_at_every_crash_point() {
    Fixture::local().cancel_at_each_crash_point();
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_job_of_a_remote_platform_can_be_cancelled_at_every_crash_point() {
    Fixture::remote().cancel_at_each_crash_point();
}
