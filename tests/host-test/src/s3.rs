//! SeaweedFS: an S3 server of its own for a test, in a temporary folder.
//!
//! It runs under a user that is not root, and ends with this process, however that ends: its shell waits
//! for the end of the standard input, which is a pipe from here. `scripts/test` installs the program.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::unistd::{User, geteuid};

/// The bucket of every server. Tests that share a server use prefixes of their own.
pub const BUCKET: &str = "jobs";

/// The region of every server. It takes any.
pub const REGION: &str = "us-east-1";

/// What has the server's files when it is installed by `scripts/test`: by root, and by others.
const PLACES: [&str; 2] = [
    "/usr/local/lib/sandbox-runner/seaweedfs/bin/weed",
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/seaweedfs/bin/weed"),
];

/// The ports of its parts, each with one for gRPC.
const PARTS: [&str; 5] = ["s3", "master", "volume", "filer", "admin"];

/// Runs the program, says when it is ready, and stops it when the input has a line or ends; at its end it
/// also removes the folder, as this process may not have come to it.
const SCRIPT: &str = r#"
    weed=$1 dir=$2 ip=$3
    shift 3
    "$weed" -logtostderr=true mini -dir="$dir/data" -ip="$ip" -ip.bind="$ip" -s3.config="$dir/s3.json" \
        -bucket=jobs -webdav=false -admin.ui=false -s3.iam=false -s3.port.iceberg=0 -s3.port.lance=0 \
        -master.telemetry=false -master.volumeSizeLimitMB=64 -filer.localSocket="$dir/filer.sock" \
        -s3.localSocket="$dir/s3.sock" "$@" >"$dir/log" 2>&1 &
    until grep -qs "running and ready to use" "$dir/log"; do
        kill -0 $! 2>/dev/null || { echo failed; cat "$dir/log" >&2; exit 1; }
        sleep 0.05
    done
    echo ready
    cd /
    again=
    read -r again
    kill -KILL $!
    wait $! 2>/dev/null
    for port in "$@"; do
        rm -f /tmp/seaweedfs-*-grpc-"${port##*=}".sock
    done
    [ -n "$again" ] || rm -rf "$dir"
"#;

/// An S3 server with the bucket [`BUCKET`]. Dropping it stops it and removes its folder.
pub struct S3 {
    weed: PathBuf,
    dir: tempfile::TempDir,
    ip: IpAddr,
    ports: Vec<u16>,
    secret: String,
    shell: Option<(Child, ChildStdin)>,
}

impl S3 {
    /// The name of the credentials.
    pub const KEY: &str = "runner-tests";

    /// On loopback. `None` if the program is not installed: see [`skip`](crate::skip).
    #[must_use]
    pub fn start() -> Option<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST.into())
    }

    /// On an address of the calling thread's network namespace, in which the server stays.
    #[must_use]
    pub fn start_at(ip: IpAddr) -> Option<Self> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let others = std::env::split_paths(&path).map(|folder| folder.join("weed"));
        let weed = PLACES.iter().map(PathBuf::from).chain(others).find(|path| path.exists())?;
        let dir = tempfile::Builder::new().prefix("s3-").tempdir().unwrap();
        fs::create_dir(dir.path().join("data")).unwrap();
        let secret = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned();
        let ports = Vec::new();
        let mut server = Self { weed, dir, ip, ports, secret, shell: None };
        server.write_credentials();
        if let Some(user) = user() {
            for path in ["", "data", "s3.json"].map(|name| server.dir.path().join(name)) {
                chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
        }
        // Another process may take a port before the server does.
        let is_ready = (0..3).any(|_| {
            server.ports = free_ports(ip);
            server.try_run()
        });
        assert!(is_ready, "the S3 server does not start");
        Some(server)
    }

    /// Starts it again, on its folder and at its ports.
    pub fn run(&mut self) {
        assert!(self.try_run(), "the S3 server does not start again");
    }

    /// Ends it as `kill -9` does. What it acknowledged is in its folder.
    pub fn stop(&mut self) {
        let (mut shell, mut input) = self.shell.take().unwrap();
        let _ = input.write_all(b"again\n");
        shell.wait().unwrap();
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.ports[0])
    }

    /// The URL for clients, which use path style.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The secret of the credentials [`S3::KEY`].
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    fn write_credentials(&self) {
        let (key, secret) = (Self::KEY, &self.secret);
        let text = format!(
            r#"{{"identities": [{{"name": "tests", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                "credentials": [{{"accessKey": "{key}", "secretKey": "{secret}"}}]}}]}}"#
        );
        let path = self.dir.path().join("s3.json");
        let mut open = File::options().write(true).create_new(true).mode(0o600).open(path).unwrap();
        open.write_all(text.as_bytes()).unwrap();
    }

    fn try_run(&mut self) -> bool {
        let ports = self.ports.chunks_exact(2).zip(PARTS);
        let ports = ports.flat_map(|(ports, part)| {
            [format!("-{part}.port={}", ports[0]), format!("-{part}.port.grpc={}", ports[1])]
        });
        let mut shell = Command::new("/bin/sh");
        shell.arg("-c").arg(SCRIPT).arg("sh").arg(&self.weed).arg(self.dir.path());
        shell.arg(self.ip.to_string()).args(ports).current_dir(self.dir.path());
        if let Some(user) = user() {
            shell.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = shell.stdin.take().unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut line).unwrap();
        if line != "ready\n" {
            shell.wait().unwrap();
            return false;
        }
        self.shell = Some((shell, input));
        true
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some((mut shell, input)) = self.shell.take() {
            drop(input);
            let _ = shell.wait();
        }
    }
}

fn free_ports(ip: IpAddr) -> Vec<u16> {
    let listeners: Vec<_> =
        (0..2 * PARTS.len()).map(|_| TcpListener::bind((ip, 0)).unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// The user of the server, if this process is root.
fn user() -> Option<User> {
    geteuid().is_root().then(|| User::from_name("nobody").unwrap().unwrap())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn a_server_that_is_started_again_has_its_address_and_leaves_nothing() {
        let Some(mut server) = S3::start() else {
            return crate::skip("no `weed`: run scripts/test");
        };
        let (address, dir) = (server.address(), server.dir.path().to_owned());

        server.stop();
        let gone = TcpStream::connect(address);
        server.run();

        assert!(gone.is_err());
        assert!(TcpStream::connect(address).is_ok());
        drop(server);
        assert!(TcpStream::connect(address).is_err());
        assert!(!dir.exists());
    }
}
