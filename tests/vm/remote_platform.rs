//! Jobs of a platform elsewhere, which the runner and its guests reach over the network.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use host_test::s3::{BUCKET, REGION, S3};
use netns::testing::{HOST, INTERNET, PRIVATE};
use platform::{
    Artifact, BucketConfig, BucketCredentials, BucketStyle, Client, Config, Content, Platform,
    RunId, Status, Submission,
};

use crate::crash_point::LOG_FILTER;
use crate::fault::{Fault, Way};
use crate::host::Host;
use crate::runner::{Runner, Running};

/// A platform on the internet, whose state outlives it.
pub(crate) struct RemotePlatform {
    state: tempfile::TempDir,
    platform: Platform,
    address: SocketAddr,
}

impl RemotePlatform {
    pub(crate) fn start(runner: &Runner) -> Self {
        let state = tempfile::tempdir().unwrap();
        let platform = serve(runner, state.path(), (INTERNET, 0).into());
        let address = platform.addresses()[0];
        Self { state, platform, address }
    }

    /// Ends it in the middle of whatever it does, and starts it again.
    fn restart(self, runner: &Runner) -> Self {
        let Self { state, platform, address } = self;
        platform.stop().unwrap();
        let platform = serve(runner, state.path(), address);
        Self { state, platform, address }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.state.path())
    }

    fn submit(&self, prompt: &str) -> RunId {
        let submission = Submission { prompt: prompt.into(), ..Submission::default() };
        self.client().submit(&submission).unwrap().run_id
    }

    /// Starts a runner that takes its jobs.
    pub(crate) fn runner(&self, runner: &Runner) -> Running {
        self.runner_by(runner, self.address)
    }

    /// The same, by another address.
    fn runner_by(&self, runner: &Runner, address: SocketAddr) -> Running {
        let token = runner.state().join("token");
        fs::write(&token, self.platform.runner_token()).unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        let config = runner.state().join("runner.toml");
        let text = format!(
            "[runner]\ncpu_overcommit = 32.0\nmax_concurrent = 2\n\
             [api]\nurl = \"http://{}\"\ntoken_file = \"token\"\n\
             [profiles.default]\nmemory_mib = 256\nmock_claude = true\n\
             [profiles.closed]\nmemory_mib = 256\nmock_claude = true\nnetwork = {{ default = \"deny\" }}\n",
            address
        );
        fs::write(&config, text).unwrap();
        let mut service = runner.service(&["start", "--config", config.to_str().unwrap()]);
        service.env("RUST_LOG", LOG_FILTER);
        Running::ready(service)
    }
}

/// A platform at an address that VMs reach only because it is the platform's; returns how jobs of a profile end
/// that try another port of the address.
fn jobs_of_a_platform_at(
    runner: &Runner,
    start: impl FnOnce(&Path) -> (Platform, std::net::TcpListener),
    profiles: &[&str],
) -> Vec<(Status, Option<String>)> {
    let state = tempfile::tempdir().unwrap();
    let (platform, other) = start(state.path());
    other.set_nonblocking(true).unwrap();
    let address = platform.addresses()[0];
    let remote = RemotePlatform { state, platform, address };
    let mut service = remote.runner(runner);
    let (ip, port) = (address.ip(), other.local_addr().unwrap().port());
    let request = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && head -c 1 <&3";
    let prompt = format!("(exec 3<>/dev/tcp/{ip}/{port} && {request}); true");
    let submit = |profile: &&str| {
        let profile = Some((*profile).to_owned());
        let submission = Submission { prompt: prompt.clone(), profile, ..Submission::default() };
        remote.client().submit(&submission).unwrap().run_id
    };
    let runs: Vec<_> = profiles.iter().map(submit).collect();
    let ends = runs.into_iter().map(|run| remote.client().wait(run, None).unwrap());
    let ends = ends.map(|job| (job.status, job.error)).collect();
    assert!(other.accept().is_err(), "another port of the platform's address was reached");
    service.signal(libc::SIGTERM);
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    ends
}

#[test]
#[ignore = "needs root, QEMU and mitmproxy"]
fn a_platform_and_its_object_store_at_addresses_of_the_host_are_reached_at_their_ports_only() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let Some(store) = S3::start_at(HOST.into()) else {
        return host_test::skip("no `weed`: run scripts/test");
    };
    // Each job uploads its session's history there.
    let bucket = BucketConfig {
        endpoint: store.endpoint(),
        region: REGION.into(),
        bucket: BUCKET.into(),
        style: BucketStyle::Path,
        ca_file: None,
        credentials: BucketCredentials::new(S3::KEY, store.secret()),
    };
    let start = |state: &Path| {
        let mut config = Config::new(state);
        config.content = Content::Bucket { bucket, prefix: String::new() };
        config.listen = vec![(HOST, 0).into()];
        config.stop_grace = Duration::from_millis(100);
        (Platform::start(config).unwrap(), std::net::TcpListener::bind((HOST, 0)).unwrap())
    };
    let ends = jobs_of_a_platform_at(&runner, start, &["default", "closed"]);
    assert_eq!(ends, [(Status::Completed, None), (Status::Completed, None)]);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root, QEMU and mitmproxy"]
fn a_platform_on_a_private_network_is_reached_at_its_port_only() {
    let runner = Runner::new();
    let start = |state: &Path| {
        let platform = serve(&runner, state, (PRIVATE, 0).into());
        let other = || std::net::TcpListener::bind((PRIVATE, 0)).unwrap();
        (platform, runner.world.on_the_internet(other))
    };
    let ends = jobs_of_a_platform_at(&runner, start, &["default"]);
    assert_eq!(ends, [(Status::Completed, None)]);
}

fn serve(runner: &Runner, state: &Path, address: SocketAddr) -> Platform {
    let mut config = Config::new(state);
    config.listen = vec![address];
    config.stop_grace = Duration::from_millis(100);
    runner.world.on_the_internet(|| Platform::start(config).unwrap())
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_restart_of_the_platform_during_a_job_loses_no_data() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let remote = RemotePlatform::start(&runner);
    let mut service = remote.runner(&runner);
    let run = remote.submit("for n in 1 2 3; do echo $n; done; sleep 4");
    remote.client().follow(run, -1).next().unwrap().unwrap();

    let remote = remote.restart(&runner);

    let job = remote.client().wait(run, None).unwrap();
    assert_eq!((job.status, job.error), (Status::Completed, None));
    assert_eq!((job.attempt, job.missing_events), (1, 0));
    let page = remote.client().events(run, -1, Duration::ZERO).unwrap();
    assert_eq!(page.items.len() as u64, job.events);
    service.signal(libc::SIGTERM);
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_job_of_a_killed_runner_fails_when_the_runner_starts_again() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let remote = RemotePlatform::start(&runner);
    let mut service = remote.runner(&runner);
    let run = remote.submit("sleep 1000");
    remote.client().follow(run, -1).next().unwrap().unwrap();
    service.signal(libc::SIGKILL);
    service.child.wait().unwrap();

    let mut service = remote.runner(&runner);

    let job = remote.client().wait(run, None).unwrap();
    assert_eq!((job.exit_code, job.error.as_deref()), (Some(1), Some("the runner died")));
    service.signal(libc::SIGTERM);
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root and QEMU"]
fn faults_of_the_platform_lose_and_duplicate_nothing() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let remote = RemotePlatform::start(&runner);
    let outage = Fault::Broken(Duration::from_secs(20));
    let faults = [
        ("/jobs/", Fault::Lost),
        ("/agent/heartbeat", Fault::Busy(1)),
        ("/agent/events", Fault::Lost),
        ("/agent/events", outage),
        ("/agent/storages/prepare", outage),
        ("/agent/storages/commit", Fault::Lost),
        ("/agent/checkpoints/prepare-history", Fault::Busy(2)),
        ("/uploads/", Fault::Stalled(Duration::from_secs(2))),
        ("/agent/complete", Fault::Broken(Duration::from_secs(2))),
        ("/agent/complete", Fault::Lost),
    ];
    let way = Way::to(remote.address, &runner.world, &faults);
    let mut service = remote.runner_by(&runner, way.address);
    let folder = runner.state().join("repo");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("a"), "one\n").unwrap();
    let mount_path = "/home/user/workspace".into();
    let mount = remote.client().upload(&Artifact { name: "repo".into(), folder, mount_path });
    let submission = Submission {
        prompt: "for n in 1 2 3; do echo $n; done; echo two >> a".into(),
        artifacts: vec![mount.unwrap()],
        ..Submission::default()
    };

    let run = remote.client().submit(&submission).unwrap().run_id;
    let job = remote.client().wait(run, None).unwrap();

    assert_eq!((job.status, job.error), (Status::Completed, None));
    assert_eq!((job.attempt, job.missing_events), (1, 0));
    let page = remote.client().events(run, -1, Duration::ZERO).unwrap();
    let sequences: Vec<_> = page.items.iter().map(|event| event.sequence).collect();
    assert!(sequences.iter().copied().eq(0..sequences.len() as i64), "{sequences:?}");
    assert_eq!(way.unused(), Vec::<&str>::new());
    service.signal(libc::SIGTERM);
    assert_eq!(service.child.wait().unwrap().code(), Some(0));
    runner.assert_nothing_left(&before);
}
