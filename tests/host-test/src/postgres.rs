//! A PostgreSQL server in a temporary folder. Its Unix socket reaches it, and an address if it has one.
//!
//! It runs under a user that is not root, and ends with this process, however that ends: its shell waits
//! for the end of the standard input, which is a pipe from here. It is in the network namespace of the
//! thread that calls [`Server::run`].

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};

/// Starts a server, prints its process, and stops it when the input has a line or ends; at its end it also
/// removes the folder, as this process may not have come to it. SIGINT is PostgreSQL's fast shutdown. The
/// shared memory of a killed server is in use until the last of its processes has noticed.
const SCRIPT: &str = r#"
    bin=$1 dir=$2
    shift 2
    start() {
        "$bin/postgres" -D "$dir/data" -k "$dir" -c fsync=off -c max_connections=500 \
            -c log_min_messages=warning "$@" >"$dir/log" 2>&1 &
    }
    start "$@"
    until [ -S "$dir/.s.PGSQL.5432" ] && "$bin/pg_isready" -q -h "$dir"; do
        if ! kill -0 $! 2>/dev/null; then
            grep -q 'pre-existing shared memory' "$dir/log" || { cat "$dir/log" >&2; exit 1; }
            start "$@"
        fi
        sleep 0.05
    done
    echo $!
    cd /
    again=
    read -r again
    kill -INT $! 2>/dev/null
    wait $!
    [ -n "$again" ] || rm -rf "$dir"
"#;

/// A server. Dropping it stops it and removes its folder.
pub struct Server {
    bin: PathBuf,
    dir: tempfile::TempDir,
    address: Option<Ipv4Addr>,
    running: Option<Running>,
}

struct Running {
    shell: Child,
    input: ChildStdin,
    pid: Pid,
}

impl Server {
    /// Starts a server without an address.
    pub fn start() -> Self {
        let mut server = Self::stopped(None);
        server.initialize();
        server.run();
        server
    }

    /// Starts a server that any client in its network may use.
    pub fn listening(address: Ipv4Addr) -> Self {
        let mut server = Self::stopped(Some(address));
        server.initialize();
        let rules = server.data().join("pg_hba.conf");
        let mut text = fs::read_to_string(&rules).unwrap();
        text.push_str("host all all all trust\nhost replication all all trust\n");
        fs::write(&rules, text).unwrap();
        server.run();
        server
    }

    /// Starts a standby of a server that has an address.
    pub fn standby(primary: &Self, address: Ipv4Addr) -> Self {
        let mut server = Self::stopped(Some(address));
        let mut copy = server.program("pg_basebackup");
        let copy = copy.args(["--write-recovery-conf", "--checkpoint=fast", "--no-sync"]);
        let copy = copy.arg("--pgdata").arg(server.data()).args(["--username", "postgres"]);
        succeed(copy.arg("--host").arg(primary.address.unwrap().to_string()));
        server.run();
        server
    }

    fn stopped(address: Option<Ipv4Addr>) -> Self {
        let dir = tempfile::Builder::new().prefix("pg-").tempdir().unwrap();
        if let Some(user) = user() {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        Self { bin: programs(), dir, address, running: None }
    }

    fn initialize(&self) {
        let mut initdb = self.program("initdb");
        let initdb = initdb.args(["--auth=trust", "--username=postgres", "--no-sync"]);
        let initdb = initdb.args(["--encoding=UTF8", "--locale=C.UTF-8"]);
        succeed(initdb.arg("-D").arg(self.data()));
    }

    /// Starts it on its folder.
    pub fn run(&mut self) {
        let mut shell = self.command(Path::new("/bin/sh"));
        let shell = shell.arg("-c").arg(SCRIPT).arg("sh").arg(&self.bin).arg(self.dir.path());
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        let shell = shell.arg("-c").arg(format!("listen_addresses={address}"));
        // A signal to this process's group must not end the shell before the server.
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut shell = shell.spawn().unwrap();
        let input = shell.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap_or_else(|_| panic!("the server does not start"));
        self.running = Some(Running { shell, input, pid: Pid::from_raw(pid) });
    }

    /// Stops it: connections end at once.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.input.write_all(b"again\n");
            running.shell.wait().unwrap();
        }
    }

    /// Kills all of its processes at once.
    pub fn kill(&mut self) {
        let pid = self.running.as_ref().unwrap().pid;
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let children = children.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()));
        for pid in [pid].into_iter().chain(children.collect::<Vec<_>>()) {
            // A child may have ended since.
            let _ = kill(pid, Signal::SIGKILL);
        }
        self.stop();
    }

    /// Whether it was started, and neither stopped nor killed since.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        succeed(self.program("pg_ctl").arg("promote").arg("--pgdata").arg(self.data()));
    }

    /// The URL of a database of this server, over its Unix socket.
    pub fn url(&self, database: &str) -> String {
        let host = self.dir.path().to_str().unwrap().replace('/', "%2F");
        format!("postgresql://postgres@{host}/{database}")
    }

    /// The folder with its Unix socket.
    pub fn socket(&self) -> &Path {
        self.dir.path()
    }

    /// Runs statements, and returns what they print.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = self.program("psql");
        let psql = psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        let psql = psql.args(["--set=ON_ERROR_STOP=1", "--username=postgres"]);
        let psql = psql.arg("--host").arg(self.dir.path()).args(["-d", database, "-c", statements]);
        succeed(psql).trim().to_owned()
    }

    /// All that a database holds, as text.
    pub fn dump(&self, database: &str) -> String {
        let mut dump = self.program("pg_dump");
        dump.arg("--username=postgres").arg("--host").arg(self.dir.path());
        succeed(dump.arg(database))
    }

    /// A program of PostgreSQL as the server's user.
    pub fn program(&self, name: &str) -> Command {
        self.command(&self.bin.join(name))
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path());
        if let Some(user) = user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What a command prints, which must succeed.
fn succeed(command: &mut Command) -> String {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

/// Where PostgreSQL's programs are.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let debian = versions.map(|entry| entry.unwrap().path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = debian.chain(std::env::split_paths(&path)).find(|bin| bin.join("initdb").exists());
    found.unwrap_or_else(|| panic!("PostgreSQL is missing: apt-get install postgresql"))
}

/// The user of the server, if this process is root, which PostgreSQL rejects.
fn user() -> Option<User> {
    let name = |name| User::from_name(name).ok().flatten();
    geteuid().is_root().then(|| name("postgres").or(name("nobody")).unwrap())
}
