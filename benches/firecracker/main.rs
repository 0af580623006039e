//! What the runner adds to Firecracker: from nothing to the end of a first command, cold and restored,
//! and the memory of a restored VM that idles, against a Firecracker that this bench starts and drives
//! itself, with the same files. In turns, in one run; what comes before and after is not counted on the
//! bare side.
//!
//! `cargo bench -p runner --bench firecracker -- [--rounds N] [--json]`, as root, with KVM, a
//! Firecracker in `$FIRECRACKER` and the default image in `$RUNNER_TEST_STATE_DIR`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

mod bare;
mod memory;
mod within;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use vsock_host::Reactor;

use self::bare::{Bare, Start};

const SIZE: [&str; 4] = ["--memory", "256", "--network", "none"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let rounds = rounds.map_or(7, |at| arguments[at + 1].parse().expect("--rounds N"));
    let bench = Bench::new();

    let (mut cold, mut bare_cold) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare_cold.push(bare_ms(&bench, Start::Cold));
        cold.push(bench.ours());
    }
    let snapshot = time(|| bench.runner(&["image", "snapshot", "default"], &SIZE));
    let (mut restored, mut bare_restored, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    let (factory, mut restored_within) = (within::factory(&bench), Vec::new());
    for _ in 0..rounds {
        bare_restored.push(bare_ms(&bench, Start::Restored));
        restored.push(bench.ours());
        let begun = Instant::now();
        let vm = within::start(&factory, &bench);
        restored_within.push(ms(begun.elapsed()));
        vm.kill().unwrap();
        let arguments = [&SIZE[..], &["--", "true"]].concat();
        whole.push(ms(time(|| bench.runner(&["run"], &arguments))));
    }
    let exec = bench.exec(rounds * 3);
    let rows = [
        ("cold_ms", median(&mut cold)),
        ("bare_cold_ms", median(&mut bare_cold)),
        ("restored_ms", median(&mut restored)),
        ("bare_restored_ms", median(&mut bare_restored)),
        ("restored_within_ms", median(&mut restored_within)),
        ("restored_whole_run_ms", median(&mut whole)),
        ("snapshot_ms", ms(snapshot)),
        ("exec_ms", exec),
    ];
    let mut text: Vec<String> =
        rows.iter().map(|(name, value)| format!("\"{name}\":{value:.1}")).collect();
    text.extend(memory::rows(&bench).map(|(name, kib)| format!("\"{name}\":{kib}")));
    text.push(format!("\"cold_ratio\":{:.3}", rows[0].1 / rows[1].1));
    text.push(format!("\"restored_ratio\":{:.3}", rows[2].1 / rows[3].1));
    text.push(format!("\"restored_within_ratio\":{:.3}", rows[4].1 / rows[3].1));
    if arguments.iter().any(|argument| argument == "--json") {
        println!("{{{}}}", text.join(","));
    } else {
        println!("{}", text.join("\n").replace('"', ""));
    }
}

/// What the runner's side and the bare side have in common.
struct Bench {
    state: PathBuf,
    reactor: Reactor,
}

impl Bench {
    fn new() -> Self {
        let state = std::env::var_os("RUNNER_TEST_STATE_DIR").expect("RUNNER_TEST_STATE_DIR");
        let state = PathBuf::from(state);
        let _ = fs::remove_dir_all(state.join("snapshots"));
        Self { state, reactor: Reactor::start().unwrap() }
    }

    fn command(&self, first: &[&str], more: &[&str]) -> Command {
        let path = std::env::var_os("RUNNER_BENCH_PROGRAM");
        let mut command = Command::new(path.unwrap_or_else(|| env!("CARGO_BIN_EXE_runner").into()));
        command.arg("--state-dir").arg(&self.state).args(first).args(more).stdin(Stdio::null());
        command
    }

    fn runner(&self, first: &[&str], more: &[&str]) {
        let output = self.command(first, more).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// From nothing until the first command has said something.
    fn ours(&self) -> f64 {
        let begun = Instant::now();
        let mut command = self.command(&["run"], &[&SIZE[..], &["--", "echo", "here"]].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let took = begun.elapsed();
        assert_eq!(line, "here\n");
        assert!(child.wait().unwrap().success());
        ms(took)
    }

    fn image(&self) -> PathBuf {
        first_folder(&self.state.join("images/default"))
    }

    fn snapshot(&self) -> PathBuf {
        first_folder(&self.state.join("snapshots"))
    }

    /// A whole `runner exec`, median.
    fn exec(&self, rounds: usize) -> f64 {
        self.runner(&["run", "-d", "--name", "bench"], &SIZE);
        let mut times = Vec::new();
        for _ in 0..rounds {
            times.push(time(|| self.runner(&["exec", "bench", "--", "true"], &[])));
        }
        self.runner(&["stop", "bench"], &[]);
        median(&mut times.into_iter().map(ms).collect::<Vec<_>>())
    }
}

/// From nothing until the first command has ended, with nothing around Firecracker.
fn bare_ms(bench: &Bench, start: Start) -> f64 {
    ms(Bare::start(bench, start).took)
}

/// The only folder in a folder that has no hidden name.
fn first_folder(folder: &Path) -> PathBuf {
    let is_shown = |path: &PathBuf| !path.file_name().unwrap().to_string_lossy().starts_with('.');
    let mut folders = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    folders.find(|path| path.is_dir() && is_shown(path)).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

fn time(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
