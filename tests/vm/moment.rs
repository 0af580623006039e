//! Runners that are killed, and jobs that are cancelled, at each moment of a job. The moment is seen in
//! what the runner logs, so it is that one however slow the host is.

use std::fs;
use std::os::fd::AsFd as _;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use platform::{Artifact, Client, Job, RunId, Status, Submission};

use crate::host::Host;
use crate::job::{CONFIG, leave};
use crate::remote_platform::RemotePlatform;
use crate::runner::{Runner, Running};

/// What has a service log each moment.
pub(crate) const MOMENTS: &str = "info,runner::service=debug,microvm=debug";

/// What is logged at the moments of a job, in their order.
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

/// A runner with the jobs of its own platform, or of one elsewhere.
struct Scene {
    runner: Runner,
    platform: Option<RemotePlatform>,
    before: Host,
}

impl Scene {
    fn local() -> Self {
        let runner = Runner::new();
        let before = Host::look(runner.state());
        Self { runner, platform: None, before }
    }

    fn elsewhere() -> Self {
        let scene = Self::local();
        Self { platform: Some(RemotePlatform::start(&scene.runner)), ..scene }
    }

    fn serve(&self) -> Running {
        if let Some(platform) = &self.platform {
            return platform.runner(&self.runner);
        }
        let path = self.runner.state().join("runner.toml");
        fs::write(&path, CONFIG).unwrap();
        let path = path.to_str().unwrap();
        let mut service = self.runner.service(&["start", "--local", "--config", path]);
        service.env("RUST_LOG", MOMENTS);
        Running::ready(service)
    }

    fn client(&self) -> Client {
        let local = || Client::new(self.runner.state());
        self.platform.as_ref().map_or_else(local, RemotePlatform::client)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.runner.log()).unwrap()
    }

    /// Submits a job with an artifact, and returns when it has come to this.
    fn submit(&self, service: &Running, prompt: &str, moment: &str) -> RunId {
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
            if log.contains(moment) {
                return run;
            }
            let is_over = log.contains(&format!("job over; run={run}"));
            assert!(!is_over, "`{moment}` did not come: {log}");
            service.wait_beside(inotify.as_fd());
            inotify.read_events().unwrap();
        }
    }

    fn end(&self, run: RunId) -> Job {
        self.client().wait(run, None).unwrap()
    }

    /// Kills the runner when a job has come to this, and returns how the job ends with the next one.
    fn killed_at(&self, moment: &str) -> Job {
        let mut service = self.serve();
        let run = self.submit(&service, "echo hello", moment);
        self.kill_and_go_on(&mut service, run)
    }

    fn kill_and_go_on(&self, service: &mut Running, run: RunId) -> Job {
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
        self.kill_and_go_on(&mut service, run)
    }

    fn cancel_at_each_moment(self) {
        let service = self.serve();
        for moment in [CLAIM].into_iter().chain(BEFORE_THE_AGENT).chain([AGENT]) {
            let run = self.submit(&service, "sleep 1000", moment);
            self.client().cancel(run).unwrap();
            assert_eq!(self.end(run).status, Status::Cancelled, "cancelled at `{moment}`");
        }
        leave(service);
        self.runner.assert_nothing_left(&self.before);
    }
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_runner_that_is_killed_at_any_moment_does_its_own_jobs_again_and_leaves_nothing() {
    let scene = Scene::local();
    let all = [CLAIM].into_iter().chain(BEFORE_THE_AGENT).chain([AGENT, OUTCOME, WRITTEN]);
    for moment in all {
        let job = scene.killed_at(moment);
        assert_eq!((job.status, job.error), (Status::Completed, None), "killed at `{moment}`");
        // What had come to its end is not done again.
        assert!(job.attempt <= if moment == WRITTEN { 1 } else { 2 }, "killed at `{moment}`");
    }
    let job = scene.killed_while_the_agent_runs("sleep 3");
    assert_eq!((job.status, job.attempt), (Status::Completed, 2));
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_runner_that_is_killed_at_any_moment_tells_a_platform_elsewhere_what_became_of_the_job() {
    let scene = Scene::elsewhere();
    let died =
        |job: &Job| job.exit_code == Some(1) && job.error.as_deref() == Some("the runner died");
    for moment in BEFORE_THE_AGENT.into_iter().chain([AGENT]) {
        let job = scene.killed_at(moment);
        assert!(died(&job), "killed at `{moment}`: {:?} {:?}", job.status, job.error);
    }
    assert!(died(&scene.killed_while_the_agent_runs("sleep 1000")));
    // It may have been just before, or just after.
    for moment in [CLAIM, OUTCOME] {
        let job = scene.killed_at(moment);
        assert!(died(&job) || job.status == Status::Completed, "{moment}: {:?}", job.error);
    }
    assert_eq!(scene.killed_at(WRITTEN).status, Status::Completed);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_job_may_be_cancelled_at_any_moment() {
    Scene::local().cancel_at_each_moment();
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_job_of_a_platform_elsewhere_may_be_cancelled_at_any_moment() {
    Scene::elsewhere().cancel_at_each_moment();
}
