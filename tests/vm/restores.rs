//! Many VMs that go on from one snapshot, one after the other, all in this process, as in a service's:
//! none may hang, and none may leave anything, here or on the host.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netns::Pool;
use netns::testing::INTERNET;
use sandbox::{
    Cancellation, DiskLimits, Event, ExecRequest, Image, Network, Outcome, SandboxConfig,
    SandboxFactory, SandboxId, Stream,
};
use vsock_host::Reactor;

use crate::host::Host;
use crate::runner::Runner;
use crate::snapshot::with_snapshot;

/// Bytes that each guest sends over its network, and gets back.
const OVER_NETWORK: usize = 64 << 10;
/// Bytes that each guest sends over its link to the host.
const OVER_LINK: usize = 1 << 20;

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn a_hundred_restores_succeed_and_leave_nothing() {
    let Some(runner) = with_snapshot(&[]) else { return };
    let port = echo(&runner);
    let reactor = Reactor::start().unwrap();
    let networks = Arc::new(networks(&runner));
    let factory = factory(&runner, &reactor, Arc::clone(&networks));
    let config = config(&runner);
    // With what is made only once, like the parent of all cgroups.
    talk(&factory, &config, port);
    let before = Picture::take(&runner, &networks);

    for _ in 0..100 {
        talk(&factory, &config, port);
    }

    assert_eq!(Picture::take(&runner, &networks), before);
    drop((factory, networks));
    reactor.stop().unwrap();
}

/// One VM, from its restore to its end.
fn talk(factory: &dyn SandboxFactory, config: &SandboxConfig, port: u16) {
    let deadline = Instant::now() + Duration::from_secs(300);
    let config = SandboxConfig { id: SandboxId::random().unwrap(), ..config.clone() };
    let vm = factory.start(&config, &Cancellation::new(), deadline).unwrap();
    assert!(vm.start_report().stages.iter().any(|(stage, _)| *stage == "reconnect"));
    let script = format!(
        "exec 3<>/dev/tcp/{INTERNET}/{port} && head -c {OVER_NETWORK} /dev/zero >&3 \
        && test $(head -c {OVER_NETWORK} <&3 | wc -c) = {OVER_NETWORK} && head -c {OVER_LINK} /dev/zero"
    );
    let argv = ["bash", "-c", &script].map(Into::into).to_vec();
    let command = vm.exec(&ExecRequest { argv, ..ExecRequest::default() }, deadline).unwrap();
    let mut count = 0;
    let exit = loop {
        match command.next(Some(deadline)).unwrap() {
            Event::Output(Stream::Stdout, bytes) => count += bytes.len(),
            Event::Output(Stream::Stderr, bytes) => panic!("{}", String::from_utf8_lossy(&bytes)),
            Event::Ended(_) => {}
            Event::Exit(exit) => break exit,
        }
    };
    assert_eq!((exit.outcome, count), (Outcome::Exited(0), OVER_LINK));
    drop(command);
    vm.kill().unwrap();
}

/// All that a VM could leave on the host or in this process.
#[derive(Debug, PartialEq)]
struct Picture {
    host: Host,
    namespaces: BTreeSet<PathBuf>,
    /// Of this host: local names, and both ends' addresses.
    sockets: (Vec<String>, Vec<String>),
    files: BTreeSet<PathBuf>,
    /// How many of each kind.
    descriptors: BTreeMap<String, usize>,
    threads: usize,
}

impl Picture {
    /// Taken while the only network is in use: no thread cleans it meanwhile.
    fn take(runner: &Runner, networks: &Pool) -> Self {
        let _lease = networks.lease(Instant::now() + Duration::from_secs(60)).unwrap();
        let processes = descendants().into_iter();
        let kinds = ["net", "mnt", "pid", "ipc", "uts"];
        let names = processes.flat_map(|path| kinds.map(|kind| path.join("ns").join(kind)));
        let mut files = BTreeSet::new();
        collect(runner.state(), &mut files);
        let mut descriptors = BTreeMap::new();
        for path in entries(Path::new("/proc/self/fd")) {
            let target = fs::read_link(path).unwrap_or_default().display().to_string();
            *descriptors.entry(target.split('[').next().unwrap().to_owned()).or_default() += 1;
        }
        Self {
            host: Host::look(runner.state()),
            namespaces: names.filter_map(|name| fs::read_link(name).ok()).collect(),
            sockets: (column("unix", 7), column("tcp", 1)),
            files,
            descriptors,
            threads: entries(Path::new("/proc/self/task")).len(),
        }
    }
}

/// The folders in `/proc` of this process and of all that descend from it: others are not this test's.
fn descendants() -> Vec<PathBuf> {
    let parent = |path: &Path| {
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
        Some(Path::new("/proc").join(line.trim()))
    };
    let own = Path::new("/proc").join(std::process::id().to_string());
    let mut all = entries(Path::new("/proc"));
    all.retain(|path| {
        std::iter::successors(Some(path.clone()), |path| parent(path)).any(|path| path == own)
    });
    all
}

/// A column of this thread's list of sockets.
fn column(list: &str, number: usize) -> Vec<String> {
    let text = fs::read_to_string(Path::new("/proc/thread-self/net").join(list)).unwrap();
    let column = |line: &str| line.split_whitespace().nth(number).unwrap_or_default().to_owned();
    let mut column: Vec<_> = text.lines().skip(1).map(column).collect();
    column.sort();
    column
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn collect(folder: &Path, files: &mut BTreeSet<PathBuf>) {
    for path in entries(folder) {
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            collect(&path, files);
        }
        files.insert(path);
    }
}

/// Sends back what comes, on the internet.
fn echo(runner: &Runner) -> u16 {
    let listener = runner.world.on_the_internet(|| TcpListener::bind((INTERNET, 0)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let work = move || {
        let mut bytes = vec![0; OVER_NETWORK];
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.read_exact(&mut bytes).unwrap();
            stream.write_all(&bytes).unwrap();
        }
    };
    std::thread::Builder::new().name("echo".into()).spawn(work).unwrap();
    port
}

fn networks(runner: &Runner) -> Pool {
    let lock_path = runner.state().join("run/network.lock");
    Pool::start(netns::Config { lock_path, ..netns::Config::default() }).unwrap()
}

fn factory(runner: &Runner, reactor: &Reactor, networks: Arc<Pool>) -> impl SandboxFactory + use<> {
    let named = std::env::var_os("FIRECRACKER").map(PathBuf::from);
    let program = sandbox_fc::Program::find(named.as_deref()).unwrap();
    let seccomp = std::env::var("RUNNER_FIRECRACKER_SECCOMP").is_ok_and(|filter| filter == "on");
    let config = sandbox_fc::Config { program, jailer: None, seccomp };
    sandbox_fc::factory(runner.state(), reactor, config).with_networks(Some(networks))
}

/// Of the kind that the snapshot is for.
fn config(runner: &Runner) -> SandboxConfig {
    let image = rootfs::Store::open(runner.state()).unwrap().get("default").unwrap();
    SandboxConfig {
        id: SandboxId::random().unwrap(),
        name: None,
        labels: BTreeMap::new(),
        image: Image {
            kernel: image.kernel,
            initramfs: image.initramfs,
            rootfs: image.rootfs,
            disk_template: image.disk_template,
        },
        vcpus: 1,
        memory_mib: 256,
        disk_limits: DiskLimits::default(),
        network: Some(Network::default()),
        hostname: "box".into(),
        timezone: None,
        host_authorities: Vec::new(),
    }
}
