//! The guest link in a real VM against raw sockets on the same vsock device, in turns, in one run:
//! ping against a 64-byte echo, a command against fork and exec in the guest plus one echo, files
//! against a raw copy of the same bytes.
//!
//! `cargo bench -p runner --bench vm_link -- [--json]`, as root, with the default image in
//! `$RUNNER_TEST_STATE_DIR` (or `/var/lib/sandbox-runner`). The bench copies itself into the VM to be
//! the raw socket's other end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use vsock_host::{Guest, Reactor, TreeItem};
use vsock_proto::{Entry, EntryKind, Exec};

const ROUNDS: usize = 60;
const FILE: usize = 64 << 20;
const PORT: u32 = 1001;
const IN_GUEST: &str = "/tmp/bench";

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().position(|argument| argument == "--guest") {
        Some(at) => in_guest(&arguments[at + 1]),
        None => on_host(arguments.iter().any(|argument| argument == "--json")),
    }
}

fn on_host(json: bool) {
    let vm = Vm::start();
    let mut raw = vm.raw("echo");
    let (mut echo, mut ping, mut exec) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        echo.push(time(|| round_trip(&mut raw)));
        ping.push(vm.guest.ping(soon()).unwrap());
        exec.push(time(|| run_true(&vm.guest)));
    }
    drop(raw);
    let spawn: f64 =
        vm.run(&["exec", &vm.name, "--", IN_GUEST, "--guest", "spawn"]).parse().unwrap();
    let (echo, ping, exec) = (median(echo), median(ping), median(exec));
    let (mut raw_in, mut file_in, mut raw_out, mut file_out) = (vec![], vec![], vec![], vec![]);
    for _ in 0..5 {
        raw_in.push(time(|| send_all(vm.raw("sink"))));
        file_in.push(time(|| write_file(&vm.guest)));
        raw_out.push(time(|| receive_all(vm.raw("source"))));
        file_out.push(time(|| read_file(&vm.guest)));
    }
    let [raw_in, file_in, raw_out, file_out] = [raw_in, file_in, raw_out, file_out].map(median);
    let ratios = [
        ("ping / raw echo", ping / echo),
        ("exec / (fork+exec + raw echo)", exec / (spawn + echo)),
        ("file in / raw copy, speed", raw_in / file_in),
        ("file out / raw copy, speed", raw_out / file_out),
    ];
    if json {
        let fields: Vec<_> = ratios.map(|(name, ratio)| format!("\"{name}\":{ratio:.3}")).into();
        println!("{{{}}}", fields.join(","));
        return;
    }
    println!("raw echo {:.3} ms, ping {:.3} ms", echo * 1e3, ping * 1e3);
    println!("fork+exec in the guest {:.1} ms, exec {:.1} ms", spawn * 1e3, exec * 1e3);
    let speed = |seconds: f64| FILE as f64 / seconds / 1e6;
    println!("raw in {:.0} MB/s, file in {:.0} MB/s", speed(raw_in), speed(file_in));
    println!("raw out {:.0} MB/s, file out {:.0} MB/s", speed(raw_out), speed(file_out));
    for (name, ratio) in ratios {
        println!("{name:<32} {ratio:>6.2}");
    }
}

struct Vm {
    state: PathBuf,
    name: String,
    folder: PathBuf,
    guest: Guest,
    _reactor: Reactor,
}

impl Vm {
    fn start() -> Self {
        let state = std::env::var_os("RUNNER_TEST_STATE_DIR");
        let state = state.map_or("/var/lib/sandbox-runner".into(), PathBuf::from);
        let name = format!("bench-{}", std::process::id());
        run(&state, &["run", "-d", "--name", &name]);
        let folder = folder_of(&state, &name);
        let reactor = Reactor::start().unwrap();
        let guest = reactor.connect(&folder.join("control.sock"), soon()).unwrap();
        let here = std::env::current_exe().unwrap();
        run(&state, &["cp", here.to_str().unwrap(), &format!("{name}:{IN_GUEST}")]);
        Self { state, name, folder, guest, _reactor: reactor }
    }

    fn run(&self, arguments: &[&str]) -> String {
        run(&self.state, arguments)
    }

    /// A raw connection to this bench in the guest, which does `what` with it.
    fn raw(&self, what: &str) -> Raw {
        let path = self.folder.join(format!("vmm/v.sock_{PORT}"));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let owner =
            std::os::unix::fs::MetadataExt::uid(&self.folder.join("vmm").metadata().unwrap());
        std::os::unix::fs::chown(&path, Some(owner), None).unwrap();
        let arguments = ["exec", &self.name, "--", IN_GUEST, "--guest", what];
        let peer = runner(&self.state, &arguments).spawn().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        stream.read_exact(&mut [0]).unwrap();
        Raw { stream, peer }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        run(&self.state, &["stop", &self.name]);
    }
}

struct Raw {
    stream: UnixStream,
    peer: Child,
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.peer.wait().unwrap();
    }
}

fn runner(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
    command.arg("--state-dir").arg(state).args(arguments).stdin(Stdio::null());
    command
}

fn run(state: &Path, arguments: &[&str]) -> String {
    let output = runner(state, arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn folder_of(state: &Path, name: &str) -> PathBuf {
    let vms = std::fs::read_dir(state.join("vms")).unwrap().flatten();
    let is_it = |folder: &PathBuf| {
        std::fs::read_to_string(folder.join("vm.json")).is_ok_and(|json| json.contains(name))
    };
    vms.map(|entry| entry.path()).find(is_it).expect("the VM's folder")
}

fn round_trip(raw: &mut Raw) {
    let mut message = [7; 64];
    raw.stream.write_all(&message).unwrap();
    raw.stream.read_exact(&mut message).unwrap();
}

fn run_true(guest: &Guest) {
    let exec = Exec { argv: vec![b"true".to_vec().into()], ..Exec::default() };
    guest.exec(exec, soon()).unwrap().wait(Some(soon())).unwrap();
}

/// The peer answers when it has all of it in a file.
fn send_all(mut raw: Raw) {
    let chunk = vec![1; 64 << 10];
    for _ in 0..FILE / chunk.len() {
        raw.stream.write_all(&chunk).unwrap();
    }
    raw.stream.read_exact(&mut [0]).unwrap();
}

fn receive_all(mut raw: Raw) {
    let mut file = tempfile::tempfile().unwrap();
    copy(&mut raw.stream, &mut file);
}

fn write_file(guest: &Guest) {
    let write = vsock_proto::Write { target: b"/tmp/in".to_vec().into(), ..Default::default() };
    let mut tree = guest.write(write, soon()).unwrap();
    let kind = EntryKind::File { size: FILE as u64 };
    let path = Vec::new().into();
    tree.entry(Entry { path, kind, mode: 0o644, owner: None, modified: None }, soon()).unwrap();
    let chunk = vec![1; 64 << 10];
    for _ in 0..FILE / chunk.len() {
        tree.data(&chunk, soon()).unwrap();
    }
    tree.finish(soon()).unwrap();
}

fn read_file(guest: &Guest) {
    let mut file = tempfile::tempfile().unwrap();
    let read = vsock_proto::Read { path: b"/tmp/in".to_vec().into() };
    let mut tree = guest.read(read, soon()).unwrap();
    while let Some(item) = tree.next(soon()).unwrap() {
        if let TreeItem::Data(data) = item {
            file.write_all(&data).unwrap();
        }
    }
}

/// The other end of the raw connection.
fn in_guest(what: &str) {
    if what == "spawn" {
        let spawn = || assert!(Command::new("true").status().unwrap().success());
        let times = (0..ROUNDS).map(|_| time(spawn));
        return println!("{}", median(times.collect()));
    }
    let mut host = dial();
    host.write_all(&[0]).unwrap();
    match what {
        "echo" => {
            let mut message = [0; 64];
            while host.read_exact(&mut message).is_ok() {
                host.write_all(&message).unwrap();
            }
        }
        "sink" => {
            let mut file = File::create("/tmp/raw").unwrap();
            copy(&mut host, &mut file);
            host.write_all(&[0]).unwrap();
        }
        _ => copy(&mut File::open("/tmp/in").unwrap(), &mut host),
    }
}

fn dial() -> UnixStream {
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Vsock, SockType::Stream, flags, None).unwrap();
    connect(fd.as_raw_fd(), &VsockAddr::new(2, PORT)).unwrap();
    UnixStream::from(fd)
}

fn copy(from: &mut impl Read, to: &mut impl Write) {
    let mut chunk = vec![0; 64 << 10];
    let mut left = FILE;
    while left > 0 {
        let count = from.read(&mut chunk).unwrap();
        assert!(count > 0, "{left} bytes are missing");
        to.write_all(&chunk[..count]).unwrap();
        left -= count;
    }
}

fn time(action: impl FnOnce()) -> Duration {
    let started = Instant::now();
    action();
    started.elapsed()
}

/// In seconds.
fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}
