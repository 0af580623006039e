//! A PostgreSQL server in a temporary folder, which only its Unix socket reaches.
//!
//! It runs under a user that is not root, and ends with this process, however that ends: its shell waits
//! for the end of the standard input, which is a pipe from here.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::unistd::{User, geteuid};

/// Starts a server, says so, and stops it when the input has a line or ends; at its end it also removes the
/// folder, as this process may not have come to it. SIGINT is PostgreSQL's fast shutdown.
const SCRIPT: &str = r#"
    "$1/postgres" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c max_connections=500 \
        -c log_min_messages=warning >>"$2/log" 2>&1 &
    until [ -S "$2/.s.PGSQL.5432" ] && "$1/pg_isready" -q -h "$2"; do
        kill -0 $! 2>/dev/null || { cat "$2/log" >&2; exit 1; }
        sleep 0.05
    done
    echo ready
    cd /
    again=
    read -r again
    kill -INT $!
    wait $!
    [ -n "$again" ] || rm -rf "$2"
"#;

/// A server. Dropping it stops it and removes its folder.
pub(crate) struct Server {
    bin: PathBuf,
    dir: tempfile::TempDir,
    shell: Option<(Child, ChildStdin)>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let bin = programs();
        let dir = tempfile::Builder::new().prefix("pg-").tempdir().unwrap();
        if let Some(user) = user() {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut server = Self { bin, dir, shell: None };
        let mut initdb = server.program("initdb");
        let data = server.dir.path().join("data");
        let initdb = initdb.args(["--auth=trust", "--username=postgres", "--no-sync"]);
        let initdb = initdb.args(["--encoding=UTF8", "--locale=C.UTF-8"]).arg("-D").arg(data);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.run();
        server
    }

    /// Starts it on its folder.
    pub(crate) fn run(&mut self) {
        let mut shell = self.command(Path::new("/bin/sh"));
        let shell = shell.arg("-c").arg(SCRIPT).arg("sh").arg(&self.bin).arg(self.dir.path());
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = shell.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        self.shell = Some((shell, input));
    }

    /// Stops it: connections end at once.
    pub(crate) fn stop(&mut self) {
        let (mut shell, mut input) = self.shell.take().unwrap();
        let _ = input.write_all(b"again\n");
        shell.wait().unwrap();
    }

    /// The URL of a database of this server.
    pub(crate) fn url(&self, database: &str) -> String {
        let host = self.dir.path().to_str().unwrap().replace('/', "%2F");
        format!("postgresql://postgres@{host}/{database}")
    }

    /// Runs statements, and returns what they print.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = self.command(&self.bin.join("psql"));
        let psql = psql.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"]);
        let psql = psql.args(["--set=ON_ERROR_STOP=1", "--username=postgres"]);
        let psql = psql.arg("--host").arg(self.dir.path()).args(["-d", database, "-c", statements]);
        let done = psql.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn program(&self, name: &str) -> Command {
        self.command(&self.bin.join(name))
    }

    /// A command as the server's user.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path());
        if let Some(user) = user() {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.shell.is_some() {
            self.stop();
        }
    }
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
