//! What the runner adds to Firecracker: from nothing to the end of a first command, cold and restored,
//! against a Firecracker that this bench starts and drives itself, with the same files. In turns, in
//! one run; what comes before and after is not counted on the bare side.
//!
//! `cargo bench -p runner --bench firecracker -- [--rounds N] [--json]`, as root, with KVM, a
//! Firecracker in `$FIRECRACKER` and the default image in `$RUNNER_TEST_STATE_DIR`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use vsock_host::{Guest, Reactor};
use vsock_proto::Exec;

const BOOT_ARGS: &str = "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on reboot=k \
    i8042.noaux i8042.nomux i8042.dumbkbd";
const SIZE: [&str; 4] = ["--memory", "256", "--network", "none"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let rounds = arguments.iter().position(|argument| argument == "--rounds");
    let rounds = rounds.map_or(7, |at| arguments[at + 1].parse().expect("--rounds N"));
    let bench = Bench::new();

    let (mut cold, mut bare_cold) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare_cold.push(bench.bare(Start::Cold));
        cold.push(bench.ours());
    }
    let snapshot = time(|| bench.runner(&["image", "snapshot", "default"], &SIZE));
    let (mut restored, mut bare_restored, mut whole) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare_restored.push(bench.bare(Start::Restored));
        restored.push(bench.ours());
        let arguments = [&SIZE[..], &["--", "true"]].concat();
        whole.push(ms(time(|| bench.runner(&["run"], &arguments))));
    }
    let exec = bench.exec(rounds * 3);
    let rows = [
        ("cold_ms", median(&mut cold)),
        ("bare_cold_ms", median(&mut bare_cold)),
        ("restored_ms", median(&mut restored)),
        ("bare_restored_ms", median(&mut bare_restored)),
        ("restored_whole_run_ms", median(&mut whole)),
        ("snapshot_ms", ms(snapshot)),
        ("exec_ms", exec),
    ];
    let mut text: Vec<String> =
        rows.iter().map(|(name, value)| format!("\"{name}\":{value:.1}")).collect();
    text.push(format!("\"cold_ratio\":{:.3}", rows[0].1 / rows[1].1));
    text.push(format!("\"restored_ratio\":{:.3}", rows[2].1 / rows[3].1));
    match arguments.iter().any(|argument| argument == "--json") {
        true => println!("{{{}}}", text.join(",")),
        false => println!("{}", text.join("\n").replace('"', "")),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Start {
    Cold,
    Restored,
}

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

    /// The same with nothing around Firecracker.
    fn bare(&self, start: Start) -> f64 {
        let folder = tempfile::tempdir_in(&self.state).unwrap();
        self.fill(folder.path(), start);
        let socket = folder.path().join(format!("v.sock_{}", vsock_proto::PORT));
        let listener = self.reactor.listen(&socket).unwrap();
        let begun = Instant::now();
        let mut firecracker = firecracker(folder.path());
        let mut api = Api::connect(&folder.path().join("api.sock"));
        match start {
            Start::Cold => boot(&mut api),
            Start::Restored => api.put(
                "snapshot/load",
                r#"{"snapshot_path":"state","mem_backend":{"backend_type":"File","backend_path":"memory"},"resume_vm":true}"#,
            ),
        }
        let guest = listener.accept(soon()).unwrap();
        run_true(&guest);
        let took = begun.elapsed();
        firecracker.kill().unwrap();
        firecracker.wait().unwrap();
        ms(took)
    }

    /// Puts the VM's files into its folder.
    fn fill(&self, folder: &Path, start: Start) {
        let image = first_folder(&self.state.join("images/default"));
        for (from, to) in [("vmlinux", "kernel"), ("initramfs.cpio", "initramfs")] {
            fs::hard_link(image.join(from), folder.join(to)).unwrap();
        }
        fs::hard_link(image.join("rootfs.squashfs"), folder.join("rootfs")).unwrap();
        let disk = match start {
            Start::Cold => image.join("disk.ext4"),
            Start::Restored => {
                let saved = first_folder(&self.state.join("snapshots"));
                for name in ["state", "memory"] {
                    fs::hard_link(saved.join(name), folder.join(name)).unwrap();
                }
                saved.join("disk")
            }
        };
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(disk).arg(folder.join("disk"));
        assert!(copy.status().unwrap().success());
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

fn firecracker(folder: &Path) -> Child {
    let program = std::env::var_os("FIRECRACKER").unwrap_or_else(|| "firecracker".into());
    let log = fs::File::create(folder.join("said")).unwrap();
    Command::new(program)
        .args(["--api-sock", "api.sock"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

fn boot(api: &mut Api) {
    api.put("machine-config", r#"{"vcpu_count":1,"mem_size_mib":256}"#);
    let source = r#"{"kernel_image_path":"kernel","initrd_path":"initramfs","boot_args":"ARGS"}"#;
    api.put("boot-source", &source.replace("ARGS", BOOT_ARGS));
    for (name, is_read_only) in [("rootfs", true), ("disk", false)] {
        let drive = format!(
            r#"{{"drive_id":"{name}","path_on_host":"{name}","is_root_device":false,"is_read_only":{is_read_only}}}"#
        );
        api.put(&format!("drives/{name}"), &drive);
    }
    api.put("vsock", r#"{"guest_cid":3,"uds_path":"v.sock"}"#);
    api.put("entropy", "{}");
    api.put("actions", r#"{"action_type":"InstanceStart"}"#);
}

struct Api(UnixStream);

impl Api {
    fn connect(socket: &Path) -> Self {
        let deadline = soon();
        loop {
            match UnixStream::connect(socket) {
                Ok(stream) => return Self(stream),
                Err(error) => assert!(Instant::now() < deadline, "no API: {error}"),
            }
            std::thread::yield_now();
        }
    }

    fn put(&mut self, path: &str, body: &str) {
        let length = body.len();
        write!(self.0, "PUT /{path} HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut buffer = [0; 4096];
        let count = self.0.read(&mut buffer).unwrap();
        let reply = String::from_utf8_lossy(&buffer[..count]);
        assert!(reply.starts_with("HTTP/1.1 204"), "PUT /{path}: {reply}");
    }
}

fn run_true(guest: &Guest) {
    let exec = Exec { argv: vec![b"true".to_vec().into()], ..Exec::default() };
    guest.exec(exec, soon()).unwrap().wait(Some(soon())).unwrap();
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
