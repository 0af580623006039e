//! A fleet: databases, platforms and runner hosts, each in a network namespace of its own.
//!
//! ```text
//!  submissions ──▶ replica 10.77.0.x ──▶ database ──▶ standby
//!                    ▲                     ▲
//!                    └── host, its guests  └── checker
//! ```

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use host_test::postgres::Server;
use platform::{Artifact, Client, Job, Mount, NewToken, Role, Submission};

use crate::network::{Network, Node};
use crate::process::Process;

/// The database that the platforms share.
const DATABASE: &str = "jobs";

const PORT: u16 = 8480;

/// Guards against a test that never ends.
const WAIT_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// All parts. They end in this order.
pub(crate) struct Fleet {
    pub(crate) hosts: Vec<Host>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) databases: Vec<Database>,
    network: Network,
    dir: tempfile::TempDir,
}

/// A server of PostgreSQL.
pub(crate) struct Database {
    pub(crate) node: Node,
    server: Server,
}

/// A platform.
pub(crate) struct Replica {
    pub(crate) node: Node,
    state: PathBuf,
    database: String,
    key_file: PathBuf,
    clock: Clock,
    process: Option<Process>,
}

/// A runner.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) state: PathBuf,
    clock: Clock,
    process: Option<Process>,
}

/// The wall clock of a process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    Right,
    /// Five minutes ahead.
    Ahead,
}

impl Clock {
    /// What begins the command of a process with this clock. libfaketime changes its wall clock alone.
    fn command(self) -> Vec<OsString> {
        if self == Self::Right {
            return Vec::new();
        }
        let libraries = fs::read_dir("/usr/lib").unwrap().flatten();
        let mut libraries = libraries.map(|one| one.path().join("faketime/libfaketime.so.1"));
        let library = libraries.find(|library| library.exists());
        let library = library.unwrap_or_else(|| panic!("missing: apt-get install faketime"));
        let preload = format!("LD_PRELOAD={}", library.display());
        let monotonic = "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned();
        let words = ["env".to_owned(), preload, "FAKETIME=+300".to_owned(), monotonic];
        words.map(OsString::from).into()
    }
}

impl Fleet {
    /// A database without platforms.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("fleet-").tempdir().unwrap();
        fs::create_dir(dir.path().join("blobs")).unwrap();
        let mut add_key = Command::new(beside("runner"));
        let add_key = add_key.args(["serve", "--add-key"]).arg(dir.path().join("keys"));
        assert!(add_key.output().unwrap().status.success(), "{add_key:?}");
        let mut network = Network::new();
        let node = network.node();
        let server = node.within(|| Server::listening(node.address));
        server.sql("postgres", &format!("CREATE DATABASE {DATABASE}"));
        let databases = vec![Database { node, server }];
        Self { hosts: Vec::new(), replicas: Vec::new(), databases, network, dir }
    }

    /// With this many platforms and runners.
    pub(crate) fn of(replicas: usize, hosts: usize) -> Self {
        let mut fleet = Self::new();
        for _ in 0..replicas {
            fleet.add_replica(Clock::Right).start();
        }
        for _ in 0..hosts {
            fleet.add_host(Clock::Right).start();
        }
        fleet
    }

    /// Adds a synchronous standby.
    pub(crate) fn add_standby(&mut self) {
        let node = self.network.node();
        let primary = &self.databases[0].server;
        let server = node.within(|| Server::standby(primary, node.address));
        primary.sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = '*'");
        primary.sql("postgres", "SELECT pg_reload_conf()");
        self.databases.push(Database { node, server });
    }

    /// Adds a platform, which is not started yet. All have the same keys and blobs.
    pub(crate) fn add_replica(&mut self, clock: Clock) -> &mut Replica {
        let state = self.dir.path().join(format!("replica-{}", self.replicas.len()));
        let control = state.join("control");
        fs::create_dir_all(&control).unwrap();
        symlink(self.dir.path().join("blobs"), control.join("blobs")).unwrap();
        let hosts = self.databases.iter().map(|one| one.node.address.to_string());
        let hosts = hosts.collect::<Vec<_>>().join(",");
        let database =
            format!("postgresql://postgres@{hosts}/{DATABASE}?target_session_attrs=read-write");
        let (node, key_file) = (self.network.node(), self.dir.path().join("keys"));
        self.replicas.push(Replica { node, state, database, key_file, clock, process: None });
        self.replicas.last_mut().unwrap()
    }

    /// Adds a runner, which is not started yet. It talks to one of the platforms, with a token of its own.
    pub(crate) fn add_host(&mut self, clock: Clock) -> &mut Host {
        let number = self.hosts.len();
        let state = self.dir.path().join(format!("host-{number}"));
        fs::create_dir(&state).unwrap();
        let token = state.join("token");
        let (name, group) = (format!("host-{number}"), Some("local/default".to_owned()));
        let new = NewToken { name, role: Role::Runner, group, expires_in_ms: None };
        let made = self.ask(number, |client| client.create_token(&new));
        fs::write(&token, made.secret).unwrap();
        fs::set_permissions(token, Permissions::from_mode(0o600)).unwrap();
        let url = self.replicas[number % self.replicas.len()].url();
        let config = format!(
            "[runner]\nname = \"host-{number}\"\nvcpus = 8\nmemory_mib = 8192\n\
             max_concurrent = 8\n[api]\nurl = \"{url}\"\ntoken_file = \"token\"\npush = false\n\
             [profiles.default]\nmemory_mib = 128\nmock_claude = true\nhost_ca = false\n\
             network = \"open\"\n"
        );
        fs::write(state.join("runner.toml"), config).unwrap();
        let node = self.network.node();
        self.hosts.push(Host { node, state, clock, process: None });
        self.hosts.last_mut().unwrap()
    }

    /// Uploads a folder that jobs are given.
    pub(crate) fn upload(&self) -> Mount {
        let folder = self.dir.path().join("artifact");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("given"), "given\n").unwrap();
        let mount_path = "/home/user/workspace/data".to_owned();
        let artifact = Artifact { name: "data".to_owned(), folder, mount_path };
        self.replicas[0].client().upload(&artifact).unwrap()
    }

    /// Submits a job, at the first platform that accepts it.
    pub(crate) fn submit(&self, first: usize, submission: &Submission) -> platform::RunId {
        self.ask(first, |client| client.submit(submission)).run_id
    }

    /// Waits for the end of a job.
    pub(crate) fn end(&self, run: platform::RunId) -> Job {
        let job = self.ask(0, |client| client.wait(run, Some(Instant::now() + WAIT_TIMEOUT)));
        assert!(job.status.is_final(), "{job:?}");
        job
    }

    /// Asks one platform after the other until one replies.
    fn ask<T>(&self, first: usize, call: impl Fn(&Client) -> platform::Result<T>) -> T {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        let mut replicas = self.replicas.iter().cycle().skip(first);
        loop {
            match call(&replicas.next().unwrap().client()) {
                Ok(reply) => return reply,
                // A platform that is down fails at once, and the others while the database is away.
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }

    /// Runs statements at the primary, and returns what they print.
    pub(crate) fn sql(&self, statements: &str) -> String {
        let running = self.databases.iter().map(|one| &one.server).find(|one| one.is_running());
        running.unwrap().sql(DATABASE, statements)
    }

    /// All that the database holds, as text.
    pub(crate) fn dump(&self) -> String {
        let running = self.databases.iter().map(|one| &one.server).find(|one| one.is_running());
        running.unwrap().dump(DATABASE)
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.dir.path().join("blobs")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.dir.path()
    }

    /// Lets the leases of a runner's jobs expire at once, as if it had been silent for so long.
    pub(crate) fn expire(&self, host: usize) {
        let runner = format!("SELECT id FROM runners WHERE body LIKE '%\"host-{host}\"%'");
        self.sql(&format!(
            "UPDATE attempts SET seen = seen - 3600000 WHERE state = 'live' AND runner = ({runner});
             UPDATE runners SET seen = seen - 3600000 WHERE id = ({runner});
             UPDATE service SET since = since - 3600000"
        ));
    }

    /// Lets the hosts finish, and stops them and the platforms.
    pub(crate) fn stop(&mut self) {
        self.hosts.iter_mut().for_each(Host::stop);
        self.replicas.iter_mut().for_each(Replica::stop);
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for name in fs::read_dir(self.dir.path()).unwrap().flatten() {
            let text = fs::read_to_string(name.path().join("log")).unwrap_or_default();
            let lines: Vec<_> = text.lines().filter(|line| !line.contains(" INFO ")).collect();
            let last = lines[lines.len().saturating_sub(20)..].join("\n");
            eprintln!("--- {}\n{last}", name.file_name().display());
        }
    }
}

impl Database {
    /// As `kill -9` of all of its processes.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Makes a standby the primary.
    pub(crate) fn promote(&self) {
        self.server.promote();
    }

    pub(crate) fn run(&mut self) {
        let Self { node, server } = self;
        node.within(|| server.run());
    }
}

impl Replica {
    pub(crate) fn url(&self) -> String {
        format!("http://{}:{PORT}", self.node.address)
    }

    /// Starts it; returns without waiting for it.
    pub(crate) fn spawn(&mut self) {
        let listen = format!("{}:{PORT}", self.node.address);
        let program = beside("runner");
        let key_file = self.key_file.to_str().unwrap();
        let words =
            ["serve", "--listen", &listen, "--database", &self.database, "--key-file", key_file];
        let mut command = self.clock.command();
        command.extend([program.into(), "--state-dir".into(), self.state.clone().into()]);
        command.extend(words.map(OsString::from));
        let log = self.state.join("log");
        self.process = Some(Process::start(&self.node, &log, &command));
    }

    /// Waits until it serves.
    pub(crate) fn ready(&mut self) {
        self.process.as_mut().unwrap().line("serves ");
    }

    pub(crate) fn start(&mut self) {
        self.spawn();
        self.ready();
    }

    /// As `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap();
    }

    fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate();
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(&self.state)
    }

    pub(crate) fn control(&self) -> PathBuf {
        self.state.join("control")
    }
}

impl Host {
    /// Starts it as the first process of a PID namespace: its end is the end of its guests.
    pub(crate) fn start(&mut self) {
        let words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
        let mut command: Vec<OsString> = words.map(OsString::from).into();
        command.extend(self.clock.command());
        let config = self.state.join("runner.toml");
        command.extend([env!("CARGO_BIN_EXE_fleet-host").into(), self.state.clone().into()]);
        command.push(config.into());
        let log = self.state.join("log");
        let process = self.process.insert(Process::start(&self.node, &log, &command));
        process.line("ready");
    }

    /// As `kill -9` of all of its processes.
    pub(crate) fn kill(&mut self) {
        self.process.take().unwrap();
    }

    /// Lets its jobs end.
    fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            process.terminate();
        }
    }
}

/// A program of this workspace, which `cargo build` puts beside the host.
fn beside(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_fleet-host")).with_file_name(name);
    assert!(path.exists(), "{} is missing: see the head of main.rs", path.display());
    path
}
