//! Runs the runner.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use netns::testing::World;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tempfile::TempDir;

use crate::host::{Host, names};

/// A state folder on a host of its own, as far as networks go, and the runner on it.
pub(crate) struct Runner {
    state: TempDir,
    pub(crate) world: World,
}

impl Runner {
    pub(crate) fn new() -> Self {
        // Beside the images, which a VM links: on the same file system.
        let images = images();
        let state = tempfile::Builder::new()
            .prefix("t-")
            .permissions(PermissionsExt::from_mode(0o711))
            .tempdir_in(images.parent().unwrap())
            .unwrap();
        symlink(&images, state.path().join("images")).unwrap();
        Self { state, world: World::enter() }
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    pub(crate) fn command(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_runner"));
        command.arg("--state-dir").arg(self.state()).args(arguments).env_remove("RUST_LOG");
        // What runners agree on holds for one host.
        command.env("RUNNER_RUNTIME_DIR", self.state().join("run"));
        command.stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, arguments: &[impl AsRef<OsStr>]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it to its successful end and returns what it printed.
    pub(crate) fn succeed(&self, arguments: &[impl AsRef<OsStr>]) -> String {
        let output = self.run(arguments);
        let errors = text(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", output.status);
        text(&output.stdout)
    }

    /// Starts it with both outputs in pipes.
    pub(crate) fn start(&self, arguments: &[impl AsRef<OsStr>]) -> Running {
        let mut command = self.command(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    }

    /// A service, that is to say a command whose standard error is kept in `service.log`.
    pub(crate) fn service(&self, arguments: &[impl AsRef<OsStr>]) -> Command {
        let mut command = self.command(arguments);
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        command.stdout(Stdio::piped()).stderr(log);
        command
    }

    /// What all services logged.
    pub(crate) fn log(&self) -> PathBuf {
        self.state().join("service.log")
    }

    /// Waits until what services logged has this in it, behind its first `before` bytes.
    pub(crate) fn wait_for_log(&self, service: &Running, before: usize, wanted: &str) {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        inotify.add_watch(&self.log(), AddWatchFlags::IN_MODIFY).unwrap();
        while !std::fs::read_to_string(self.log()).unwrap()[before..].contains(wanted) {
            service.wait_beside(inotify.as_fd());
            inotify.read_events().unwrap();
        }
    }

    /// The names of the VMs' folders.
    pub(crate) fn vms(&self) -> Vec<String> {
        names(&self.state().join("vms")).into_iter().filter(|name| name != ".lock").collect()
    }

    /// Fails if anything of this runner's VMs is there.
    pub(crate) fn assert_nothing_left(&self, before: &Host) {
        assert_eq!(self.vms(), Vec::<String>::new());
        assert_eq!(&Host::look(self.state()).since(before), before);
    }
}

/// A test that fails leaves no VM of its own behind either, and what its services said last.
impl Drop for Runner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            println!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        for vm in self.vms() {
            let _ = self.command(&["stop", "--timeout", "1s", &vm]).output();
        }
        let _ = self.command(&["gc"]).output();
    }
}

/// A runner that runs. Dropping it kills it.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a service.
    pub(crate) fn of(mut service: Command) -> Self {
        let mut child = service.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Starts a service, and returns when it is ready.
    pub(crate) fn ready(service: Command) -> Self {
        let mut running = Self::of(service);
        let mut line = String::new();
        running.stdout.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready: "), "it ended: {:?}", running.child.wait());
        running
    }

    /// Sleeps until there is something to read; panics if this ends before.
    pub(crate) fn wait_beside(&self, other: BorrowedFd<'_>) {
        let ours = PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::empty());
        let mut fds = [ours, PollFd::new(other, PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::NONE).unwrap();
        assert_eq!(fds[0].revents(), Some(PollFlags::empty()), "it ended by itself");
    }

    /// Waits for a line on its standard output.
    pub(crate) fn wait_for_line(&mut self, wanted: &str) {
        let mut seen = String::new();
        let mut line = String::new();
        while self.stdout.read_line(&mut line).unwrap() > 0 {
            if line.trim_end() == wanted {
                return;
            }
            seen.push_str(&line);
            line.clear();
        }
        panic!("`{wanted}` did not come, but: {seen}");
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::try_from(signal).unwrap()).unwrap();
    }

    /// Waits for its end: its exit code and what it still printed.
    pub(crate) fn finish(mut self) -> (Option<i32>, String, String) {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.stdout.read_to_end(&mut stdout).unwrap();
        if let Some(mut errors) = self.child.stderr.take() {
            errors.read_to_end(&mut stderr).unwrap();
        }
        (self.child.wait().unwrap().code(), text(&stdout), text(&stderr))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The folder of images that `scripts/test` filled.
fn images() -> PathBuf {
    let state = std::env::var_os("RUNNER_TEST_STATE_DIR");
    let state = PathBuf::from(state.expect("RUNNER_TEST_STATE_DIR is set by scripts/test"));
    state.join("images")
}
