//! Guests: scripted sandboxes whose script runs the guest's programs, each in a mount namespace where the
//! guest's home is `/home/user`, and in a PID namespace.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Instant;

use base::sync::Mutex;
use contract::env;
use contract::guest::{AGENT, DOWNLOAD, HOME, OUTCOME, RUNS};
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use sandbox::fake::{Files, Script};
use sandbox::{
    Cancellation, ExecRequest, Result, Sandbox, SandboxConfig, SandboxFactory, SandboxId,
};
use tempfile::TempDir;

/// Shows the guest's home at its place, and becomes the program.
const ENTER: &str = r#"mount --bind "$0" /home && exec "$@""#;

/// The variables of the agent that this host sets itself, or cannot obey: it has no such user.
const OWN: [&str; 2] = [env::RUN_AS, env::MOCK_CLAUDE_PATH];

/// Starts guests in a folder of the host's state, and kills them.
pub(crate) struct Guests {
    folder: PathBuf,
    running: Mutex<HashMap<SandboxId, Weak<Guest>>>,
}

/// A guest, which owns the folder that is mounted at `/home`.
struct Guest {
    home: TempDir,
    process: Mutex<Process>,
}

#[derive(Default)]
struct Process {
    child: Option<Child>,
    is_killed: bool,
}

impl Guests {
    /// Removes what an earlier process left.
    pub(crate) fn open(state: &Path) -> Self {
        let folder = state.join("guests");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Self { folder, running: Mutex::default() }
    }

    pub(crate) fn kill(&self, id: SandboxId) {
        let guest = self.running.lock().get(&id).and_then(Weak::upgrade);
        if let Some(guest) = guest {
            guest.kill();
        }
    }
}

impl SandboxFactory for Guests {
    fn kind(&self) -> &'static str {
        "process"
    }

    fn prepare(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> Result<Box<dyn Sandbox>> {
        self.start(config, cancellation, deadline)
    }

    fn start(
        &self,
        config: &SandboxConfig,
        cancellation: &Cancellation,
        deadline: Instant,
    ) -> Result<Box<dyn Sandbox>> {
        let guest = Arc::new(Guest::new(&self.folder));
        let mut running = self.running.lock();
        running.retain(|_, guest| guest.strong_count() > 0);
        running.insert(config.id, Arc::downgrade(&guest));
        drop(running);
        let agent = Arc::clone(&guest);
        let script = Script::default()
            .work(AGENT, move |request, files| agent.work(request, files))
            .answer(DOWNLOAD, move |request, input| guest.download(request, input));
        script.factory().start(config, cancellation, deadline)
    }
}

impl Guest {
    fn new(folder: &Path) -> Self {
        let home = tempfile::tempdir_in(folder).unwrap();
        fs::create_dir_all(home.path().join("user/workspace")).unwrap();
        Self { home, process: Mutex::default() }
    }

    /// Runs the agent with the files that the service wrote. Returns its outcome.
    fn work(&self, request: &ExecRequest, files: &Files) -> (Files, u8) {
        for (path, content) in files {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let code = self.run(AGENT, request, b"");
        let run = request.env.iter().find(|(name, _)| name == env::RUN_ID);
        let run = run.map(|(_, run)| run.to_string_lossy()).unwrap_or_default();
        let outcome = Path::new(HOME).join(RUNS).join(&*run).join(OUTCOME);
        let content = fs::read(self.path(&outcome));
        (content.map(|content| (outcome, content)).into_iter().collect(), code)
    }

    fn download(&self, request: &ExecRequest, input: &[u8]) -> (Vec<u8>, u8) {
        (Vec::new(), self.run(DOWNLOAD, request, input))
    }

    /// Where a file of the guest is on the host.
    fn path(&self, path: &Path) -> PathBuf {
        self.home.path().join(path.strip_prefix("/home").unwrap())
    }

    /// Runs a program of the guest, and returns its exit code.
    fn run(&self, program: &str, request: &ExecRequest, input: &[u8]) -> u8 {
        let programs = std::env::current_exe().unwrap().parent().unwrap().to_owned();
        let own = |name: &OsStr| OWN.iter().any(|own| name == *own);
        let given = request.env.iter().filter(|(name, _)| !own(name)).cloned();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"]);
        command.arg(ENTER).arg(self.home.path()).arg(programs.join(program));
        command.args(request.argv.iter().skip(1)).env_clear().envs(given).env("HOME", HOME);
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin");
        command.env(env::MOCK_CLAUDE_PATH, programs.join("guest-mock-claude"));
        let Some(mut stdin) = self.spawn(&mut command) else { return 137 };
        let _ = stdin.write_all(input);
        drop(stdin);
        self.wait()
    }

    /// Starts a command, unless the guest was killed.
    fn spawn(&self, command: &mut Command) -> Option<std::process::ChildStdin> {
        let mut process = self.process.lock();
        if process.is_killed {
            return None;
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        process.child.insert(child).stdin.take()
    }

    fn wait(&self) -> u8 {
        let Some(pid) = self.process.lock().child.as_ref().map(Child::id) else { return 137 };
        // Not reaped yet: the lock must be free for a kill meanwhile, and the pid stays this child's.
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(Pid::from_raw(pid as i32)), flags) == Err(Errno::EINTR) {}
        let child = self.process.lock().child.take();
        let status = child.and_then(|mut child| child.wait().ok());
        status
            .and_then(|status| status.code())
            .and_then(|code| u8::try_from(code).ok())
            .unwrap_or(137)
    }

    fn kill(&self) {
        let mut process = self.process.lock();
        process.is_killed = true;
        if let Some(child) = &mut process.child {
            let _ = child.kill();
        }
    }
}
