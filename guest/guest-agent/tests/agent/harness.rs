//! A home, a workspace and a platform for one test, and runs of the built program in them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use guest_test::FakePlatform;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const TOKEN: &str = "sandbox-token-1234567890";

/// A fixture where a run can be.
pub(crate) struct Fixture {
    pub(crate) platform: FakePlatform,
    folder: TempDir,
    environment: BTreeMap<String, String>,
}

/// The result of a finished run.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) outcome: Value,
}

impl Fixture {
    /// The mock CLI runs this prompt, for a platform.
    pub(crate) fn new(prompt: &str) -> Fixture {
        // SIGALRM ends the tests if one of them hangs.
        nix::unistd::alarm::set(120);
        let folder = tempfile::tempdir().unwrap();
        for name in ["home", "work", "bin"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let platform = FakePlatform::start();
        let mut fixture = Fixture { platform, folder, environment: BTreeMap::new() };
        let path = format!("{}:{}", fixture.path("bin").display(), std::env::var("PATH").unwrap());
        let (home, work) = (fixture.path("home"), fixture.path("work"));
        let url = fixture.platform.server.url();
        let pairs = [
            ("HOME", home.to_str().unwrap()),
            ("PATH", &path),
            ("VM0_WORKING_DIR", work.to_str().unwrap()),
            ("VM0_API_URL", &url),
            ("VM0_API_TOKEN", TOKEN),
            ("VM0_RUN_ID", "run-1"),
            ("VM0_PROMPT", prompt),
            ("USE_MOCK_CLAUDE", "true"),
            ("VM0_MOCK_CLAUDE_PATH", mock().to_str().unwrap()),
        ];
        pairs.into_iter().for_each(|(name, value)| fixture.set(name, value));
        fixture
    }

    /// The CLI is this bash script. `say` prints an event; `session` announces a session and writes its
    /// history.
    pub(crate) fn with_cli(script: &str) -> Fixture {
        let mut fixture = Fixture::new("the prompt");
        let path = fixture.program("cli", script);
        fixture.set("VM0_MOCK_CLAUDE_PATH", path.to_str().unwrap());
        fixture
    }

    /// Puts a program on the run's PATH.
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.path("bin").join(name);
        let helpers = r#"#!/bin/bash
say() { printf '%s\n' "$1"; }
session() {
    folder=$HOME/.claude/projects/$(pwd -P | tr / -)
    mkdir -p "$folder"
    echo '{"type":"user"}' > "$folder/s1.jsonl"
    say '{"type":"system","subtype":"init","session_id":"s1"}'
}
"#;
        fs::write(&path, format!("{helpers}{script}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.insert(name.to_owned(), value.to_owned());
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn run_folder(&self) -> PathBuf {
        self.path("home/.vm0/guest-agent/runs/run-1")
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guest-agent"));
        command.env_clear().envs(&self.environment).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn start(&self) -> Running {
        Running(Some(self.command().spawn().unwrap()))
    }

    pub(crate) fn run(&self) -> Run {
        self.finish(self.command().output().unwrap())
    }

    pub(crate) fn finish(&self, output: Output) -> Run {
        let outcome = fs::read(self.run_folder().join("outcome.json")).unwrap_or_default();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
            outcome: serde_json::from_slice(&outcome).unwrap_or_default(),
        }
    }
}

impl Run {
    pub(crate) fn error(&self) -> &str {
        self.outcome["error"].as_str().unwrap_or_default()
    }
}

/// A run that has not finished yet; it is killed when this is dropped.
pub(crate) struct Running(Option<Child>);

impl Running {
    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.0.as_ref().unwrap().id() as i32;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    }

    pub(crate) fn wait(mut self, fixture: &Fixture) -> Run {
        fixture.finish(self.0.take().unwrap().wait_with_output().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Makes a named pipe, with which a CLI signals its progress.
pub(crate) fn make_pipe(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

/// Waits until a writer has closed the pipe, and returns what it wrote.
pub(crate) fn read_pipe(path: &Path) -> String {
    let mut text = String::new();
    fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// The path of the mock. Builds it, since it belongs to another package.
fn mock() -> &'static Path {
    static MOCK: OnceLock<PathBuf> = OnceLock::new();
    MOCK.get_or_init(|| {
        let arguments = ["build", "--package", "guest-mock-claude", "--message-format", "json"];
        let output = Command::new(env!("CARGO")).args(arguments).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let executable = lines.lines().find_map(|line| {
            let message: Value = serde_json::from_str(line).ok()?;
            message["executable"].as_str().map(PathBuf::from)
        });
        executable.unwrap()
    })
}
