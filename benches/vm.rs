//! What the runner adds to a VM: `runner run -- true`, whole, against the same monitor with the same
//! command line by hand, from its start until its guest says hello. Both in turns, in one run.
//!
//! `cargo bench -p runner --bench vm -- [--rounds N] [--json]`, as root, with the default image in
//! `$RUNNER_TEST_STATE_DIR` (or `/var/lib/sandbox-runner`).

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let rounds = rounds.map_or(7, |at| arguments[at + 1].parse().expect("--rounds N"));
    let state = std::env::var_os("RUNNER_TEST_STATE_DIR");
    let runner = Runner { state: state.map_or("/var/lib/sandbox-runner".into(), PathBuf::from) };

    let (recipe, peak_kib) = runner.look_at_a_vm();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(recipe.until_hello());
        ours.push(runner.time(&["run", "--", "true"]));
    }
    let (ours, bare) = (median(&mut ours), median(&mut bare));
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    let exec = runner.exec_in_a_vm(rounds * 5);
    if arguments.iter().any(|argument| argument == "--json") {
        println!(
            r#"{{"run_true_ms":{:.1},"bare_hello_ms":{:.1},"ratio":{ratio:.3},"exec_true_ms":{:.1},"runner_peak_kib":{peak_kib}}}"#,
            ms(ours),
            ms(bare),
            ms(exec)
        );
    } else {
        println!("runner run -- true            {:>9.1} ms", ms(ours));
        println!("bare monitor until its hello  {:>9.1} ms", ms(bare));
        println!("ratio                         {ratio:>9.3}");
        println!("runner exec VM -- true        {:>9.1} ms", ms(exec));
        println!("runner's peak memory          {:>9.1} MiB", f64::from(peak_kib) / 1024.0);
    }
}

struct Runner {
    state: PathBuf,
}

impl Runner {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command.arg("--state-dir").arg(&self.state).args(arguments).stdin(Stdio::null());
        command
    }

    fn time(&self, arguments: &[&str]) -> Duration {
        let started = Instant::now();
        assert!(self.command(arguments).status().unwrap().success());
        started.elapsed()
    }

    /// How the monitor is called, and the runner's peak memory in KiB, from a VM that runs.
    fn look_at_a_vm(&self) -> (Recipe, u32) {
        let mut command = self.command(&["run", "-i", "--", "sh", "-c", "echo ready; read end"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak = peak.trim().trim_end_matches(" kB").parse().unwrap();
        let recipe = Recipe::of_child(child.id());
        drop(child.stdin.take());
        assert!(child.wait().unwrap().code().is_some());
        (recipe, peak)
    }

    /// The median time of a whole `runner exec` in a VM that runs.
    fn exec_in_a_vm(&self, rounds: usize) -> Duration {
        let name = format!("bench-{}", std::process::id());
        self.time(&["run", "-d", "--name", &name]);
        let mut times: Vec<_> =
            (0..rounds).map(|_| self.time(&["exec", &name, "--", "true"])).collect();
        self.time(&["stop", &name]);
        median(&mut times)
    }
}

/// The two programs of a VM with their arguments, and its files.
struct Recipe {
    device: Vec<String>,
    monitor: Vec<String>,
    folder: tempfile::TempDir,
}

impl Recipe {
    fn of_child(runner: u32) -> Self {
        // Processes are children of the thread that started them.
        let threads = fs::read_dir(format!("/proc/{runner}/task")).unwrap().flatten();
        let pids: Vec<String> = threads
            .map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default())
            .flat_map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        let command_of = |part: &str| {
            let mut lines = pids.iter().map(|pid| (pid.clone(), arguments_of(pid)));
            lines.find(|(_, line)| line[0].contains(part)).expect("the VM's process")
        };
        let (pid, monitor) = command_of("qemu-system");
        let (_, device) = command_of("vhost-device-vsock");
        let source = PathBuf::from(format!("/proc/{pid}/cwd"));
        let folder = tempfile::tempdir().unwrap();
        for name in ["kernel", "initramfs", "rootfs"] {
            fs::copy(source.join(name), folder.path().join(name)).unwrap();
        }
        Self { device, monitor, folder }
    }

    /// Starts both, waits for the first byte from the guest, ends both.
    fn until_hello(&self) -> Duration {
        let at = |name: &str| self.folder.path().join(name);
        for name in ["v.sock", "v.sock_1000", "vhost.sock", "disk"] {
            let _ = fs::remove_file(at(name));
        }
        fresh_disk(&at("disk"));
        let listener = UnixListener::bind(at("v.sock_1000")).unwrap();
        let started = Instant::now();
        let mut device = spawn(&self.device, self.folder.path());
        while !at("vhost.sock").exists() {
            std::thread::yield_now();
        }
        let mut monitor = spawn(&self.monitor, self.folder.path());
        let (mut guest, _) = listener.accept().unwrap();
        guest.read_exact(&mut [0]).unwrap();
        let time = started.elapsed();
        for child in [&mut monitor, &mut device] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        time
    }
}

fn spawn(line: &[String], folder: &Path) -> std::process::Child {
    let mut command = Command::new(&line[0]);
    command.args(&line[1..]).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

fn arguments_of(pid: &str) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).trim_end_matches('\0').split('\0').map(str::to_owned).collect()
}

/// An empty disk such as an image has.
fn fresh_disk(path: &Path) {
    let status = Command::new("mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1"])
        .arg(path)
        .arg("8G")
        .status();
    assert!(status.unwrap().success());
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
