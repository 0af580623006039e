//! The service's memory when idle and per VM, the time from submission to claim, and the stages of mock jobs, one at a
//! time and concurrently.
//!
//! `cargo bench -p runner --bench service -- [--jobs N]`, as root, with the default image in
//! `$RUNNER_TEST_STATE_DIR`. It creates its own state folder beside the images.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netns::testing::World;
use platform::{Client, Status, Submission};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let jobs = arguments.iter().position(|argument| argument == "--jobs");
    let jobs: usize = jobs.map_or(20, |at| arguments[at + 1].parse().expect("--jobs N"));
    let _world = World::enter();
    let images = PathBuf::from(std::env::var_os("RUNNER_TEST_STATE_DIR").unwrap()).join("images");
    let state = tempfile::Builder::new()
        .prefix("b-")
        .permissions(PermissionsExt::from_mode(0o711))
        .tempdir_in(images.parent().unwrap())
        .unwrap();
    symlink(&images, state.path().join("images")).unwrap();
    let mut service = Service::start(state.path(), jobs);

    println!(
        "idle: VmRSS {} KiB, VmHWM {} KiB",
        service.memory("VmRSS:"),
        service.memory("VmHWM:")
    );
    service.dispatch();
    service.idle_vms(jobs.min(8));
    let started = Instant::now();
    let runs: Vec<_> = (0..jobs).map(|n| service.submit(&format!("echo {n}"))).collect();
    let ended: Vec<_> = runs.iter().map(|run| service.client.wait(*run, None).unwrap()).collect();
    let completed = ended.iter().filter(|job| job.status == Status::Completed).count();
    println!(
        "{completed} of {jobs} concurrent jobs completed, in {:.1} s",
        started.elapsed().as_secs_f64()
    );
    println!(
        "afterwards: VmRSS {} KiB, VmHWM {} KiB",
        service.memory("VmRSS:"),
        service.memory("VmHWM:")
    );
    service.stop();
    let log = fs::read_to_string(state.path().join("service.log")).unwrap();
    let finished: Vec<_> = log.lines().filter(|line| line.contains("job finished;")).collect();
    print_stages("one job at a time", &finished[..DISPATCHED]);
    print_stages("concurrent jobs", &finished[finished.len() - jobs..]);
}

/// The number of jobs that run one at a time.
const DISPATCHED: usize = 11;

struct Service {
    child: Child,
    client: Client,
}

impl Service {
    fn start(state: &Path, max_concurrent: usize) -> Self {
        let config = state.join("runner.toml");
        let text = format!(
            "[runner]\ncpu_overcommit = 64.0\nmemory_mib = 65536\nmax_concurrent = {max_concurrent}\n\
             [profiles.default]\nmemory_mib = 256\nmock_claude = true\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command.arg("--state-dir").arg(state).args(["start", "--local", "--config"]).arg(config);
        command.env("RUNNER_RUNTIME_DIR", state.join("run")).env("RUST_LOG", "info");
        let log = File::create(state.join("service.log")).unwrap();
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let started = Instant::now();
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(
            line.starts_with("ready"),
            "{}",
            fs::read_to_string(state.join("service.log")).unwrap()
        );
        println!(
            "ready with {max_concurrent} networks after {:.0} ms",
            started.elapsed().as_secs_f64() * 1e3
        );
        Self { child, client: Client::new(state) }
    }

    fn memory(&self, what: &str) -> i64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    fn submit(&self, prompt: &str) -> platform::RunId {
        let submission = Submission { prompt: prompt.into(), ..Submission::default() };
        self.client.submit(&submission).unwrap().run_id
    }

    /// Measures the time from submission to claim by the platform's timestamps, in whole milliseconds.
    fn dispatch(&self) {
        let mut times: Vec<i64> = (0..DISPATCHED)
            .map(|_| {
                let run = self.submit("true");
                let job = self.client.wait(run, None).unwrap();
                job.started_ms.unwrap() - job.created_ms
            })
            .collect();
        times.sort_unstable();
        println!(
            "submitted to claimed, idle: p50 {} ms, worst {} ms",
            times[DISPATCHED / 2],
            times[DISPATCHED - 1]
        );
    }

    /// Measures the memory that the service needs per VM with a sleeping agent.
    fn idle_vms(&self, count: usize) {
        let before = self.memory("VmRSS:");
        let runs: Vec<_> = (0..count).map(|_| self.submit("sleep 1000")).collect();
        for run in &runs {
            self.client.follow(*run, -1).next().unwrap().unwrap();
        }
        let each = (self.memory("VmRSS:") - before) / count as i64;
        println!("{count} running VMs: {each} KiB each");
        for run in &runs {
            self.client.cancel(*run).unwrap();
            self.client.wait(*run, Some(Instant::now() + Duration::from_secs(120))).unwrap();
        }
    }

    fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// Prints the stages of jobs by their lines in the log. `api_to_vm_start` is the time from submission to the VM's start.
fn print_stages(title: &str, lines: &[&str]) {
    let mut all: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for line in lines {
        for (name, time) in line.split(' ').filter_map(|word| word.split_once("_ms=")) {
            all.entry(name).or_default().push(time.parse().unwrap());
        }
    }
    println!("{title}:\n{:<18} {:>9} {:>9} ms", "stage", "p50", "worst");
    for (name, times) in &mut all {
        times.sort_by(f64::total_cmp);
        println!("{name:<18} {:>9.1} {:>9.1}", times[times.len() / 2], times[times.len() - 1]);
    }
}
