//! Garbage of dead runners, killed at any step.

use std::io::{BufRead, BufReader, Write};
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use netns::testing::{Guest, INTERNET, World};
use netns::{Config, Leftovers, Pool, Range, leftovers, reclaim};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::fixture::{Fixture, RecordingObserver, connect, lease};

const LOCK: &str = "VICTIM_LOCK";

/// Runs in a process of its own, to be killed: the whole life of a network, after it reads a line.
#[test]
#[ignore = "is run by the tests below"]
fn victim() {
    let Some(lock_path) = std::env::var_os(LOCK) else { return };
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    let config = Config { size: 2, lock_path: lock_path.into(), ..Config::default() };
    let pool = Pool::start(config).unwrap();
    let mut lease = lease(&pool);
    lease.intercept(1000, RecordingObserver::new(true)).unwrap();
    let guest = Guest::behind(&lease);
    let socket = guest.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket.send_to(b"x", (INTERNET, 9)).unwrap();
    if line.trim() == "stay" {
        eprintln!("ready");
        std::io::stdin().read_line(&mut line).unwrap();
    }
}

struct Victim {
    child: Child,
}

impl Victim {
    fn spawn(lock_path: &Path) -> Self {
        let mut command = Command::new("/proc/self/exe");
        let arguments = ["--exact", "reclaim::victim", "--include-ignored", "--nocapture"];
        command.args(arguments).env(LOCK, lock_path).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        Self { child: command.spawn().unwrap() }
    }

    fn send_line(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(line.as_bytes()).unwrap();
    }

    fn wait_until_ready(&mut self) {
        let stderr = BufReader::new(self.child.stderr.as_mut().unwrap());
        assert!(stderr.lines().any(|line| line.unwrap() == "ready"));
    }

    /// Lets it run for this number of system call entries and exits, and kills it; `false` if it ended
    /// before.
    fn run_for(&mut self, stops: usize) -> bool {
        self.trace();
        self.send_line("go\n");
        let mut left = stops;
        while let Some(status) = next_event() {
            match status {
                WaitStatus::PtraceSyscall(thread) if left > 0 => {
                    left -= 1;
                    resume(thread);
                }
                WaitStatus::PtraceSyscall(_) => self.child.kill().unwrap(),
                WaitStatus::PtraceEvent(thread, _, _) => resume(thread),
                WaitStatus::Stopped(thread, _) => resume(thread),
                _ => {}
            }
        }
        left == 0
    }

    /// Stops each of its threads at the next system call.
    fn trace(&self) {
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_EXITKILL;
        // While it reads its line it starts no threads.
        self.wait_until_it_reads();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        for task in tasks {
            let name = task.unwrap().file_name();
            let thread = Pid::from_raw(name.to_str().unwrap().parse().unwrap());
            ptrace::seize(thread, options).unwrap();
            ptrace::interrupt(thread).unwrap();
            assert!(waitpid(thread, Some(WaitPidFlag::__WALL)).is_ok());
            resume(thread);
        }
    }

    fn wait_until_it_reads(&self) {
        let reads = |task: std::fs::DirEntry| {
            let call = std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            call.starts_with("0 0x0 ")
        };
        let folder = format!("/proc/{}/task", self.child.id());
        while !std::fs::read_dir(&folder).unwrap().flatten().any(reads) {
            std::thread::yield_now();
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next event of the threads that this thread traces; `None` without threads.
fn next_event() -> Option<WaitStatus> {
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    match waitpid(None, Some(flags)) {
        Err(Errno::ECHILD) => None,
        other => Some(other.unwrap()),
    }
}

fn resume(thread: Pid) {
    // It may have been killed.
    let _ = ptrace::syscall(thread, None);
}

fn range() -> Range {
    Range::default()
}

#[test]
#[ignore = "needs root"]
fn a_runner_killed_at_any_step_leaves_nothing_that_is_not_reclaimed() {
    let fixture = Fixture::new();
    let lock_path = fixture.folder.path().join("network.lock");
    let before = fixture.world.inventory();
    // The residue modulo 7 of the tested steps differs between runs.
    let mut stops = std::process::id() as usize % 7;
    let mut dirty = 0;
    loop {
        let mut victim = Victim::spawn(&lock_path);
        let was_killed = victim.run_for(stops);
        drop(victim);

        dirty += usize::from(fixture.world.inventory() != before);
        reclaim(&lock_path, range()).unwrap();

        assert_eq!(fixture.world.inventory(), before, "after {stops} stops");
        assert_eq!(leftovers(&lock_path, range()).unwrap(), Leftovers::default());
        if !was_killed {
            break;
        }
        stops += 7;
    }
    eprintln!("stops={stops} dirty={dirty}");
    assert!(dirty > 0, "no kill left anything");
}

#[test]
#[ignore = "needs root"]
fn networks_of_a_living_runner_are_not_reclaimed() {
    let fixture = Fixture::new();
    let lock_path = fixture.folder.path().join("network.lock");
    let pool = fixture.pool(1);
    let lease = lease(&pool);
    let (guest, _server) = (Guest::behind(&lease), fixture.server(INTERNET, 80));
    let before = links(&fixture.world);
    let mut victim = Victim::spawn(&lock_path);
    victim.send_line("stay\n");
    victim.wait_until_ready();
    drop(victim);

    reclaim(&lock_path, range()).unwrap();

    assert_eq!(links(&fixture.world), before);
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
    let left: Vec<_> = fixture.world.inventory();
    let own = format!("connection from {}", lease.address().unwrap());
    assert!(left.iter().all(|entry| !entry.starts_with("connection") || *entry == own), "{left:?}");
}

#[test]
#[ignore = "needs root"]
fn the_next_pool_reclaims_when_it_starts() {
    let fixture = Fixture::new();
    let lock_path = fixture.folder.path().join("network.lock");
    let mut victim = Victim::spawn(&lock_path);
    victim.send_line("stay\n");
    victim.wait_until_ready();
    drop(victim);
    let before = leftovers(&lock_path, range()).unwrap();

    let pool = fixture.pool(1);

    let first = lease(&pool);
    assert!(before.table && !before.networks.is_empty(), "{before:?}");
    assert_eq!(first.link().unwrap(), "sr-0ac80000");
    let (guest, _server) = (Guest::behind(&first), fixture.server(INTERNET, 80));
    // The dead owner's redirection is gone.
    assert!(guest.run(|| connect(INTERNET, 80)).is_ok());
}

fn links(world: &World) -> Vec<String> {
    let mut links = world.inventory();
    links.retain(|entry| entry.starts_with("link"));
    links
}
