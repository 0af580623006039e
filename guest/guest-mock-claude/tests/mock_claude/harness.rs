//! A home and a working directory for one test, and runs of the program in them.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

/// The flags that print all events.
pub(crate) const EVENTS: [&str; 4] = ["--print", "--verbose", "--output-format", "stream-json"];

/// The flags that also read messages from stdin.
pub(crate) const MESSAGES: [&str; 6] =
    ["--print", "--verbose", "--output-format", "stream-json", "--input-format", "stream-json"];

pub(crate) struct Fixture {
    folder: TempDir,
}

/// The result of a finished program.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        // SIGALRM ends the tests if one of them hangs.
        nix::unistd::alarm::set(60);
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        fs::create_dir(folder.path().join("work")).unwrap();
        Fixture { folder }
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work").canonicalize().unwrap()
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guest-mock-claude"));
        command.args(arguments).env("HOME", self.home()).current_dir(self.work());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs one prompt and prints all events.
    pub(crate) fn ask(&self, prompt: &str) -> Run {
        self.run(&[&EVENTS[..], &["--", prompt]].concat())
    }

    /// Runs with these bytes on stdin.
    pub(crate) fn run_with_stdin(&self, arguments: &[&str], stdin: &str) -> Run {
        let file = self.folder.path().join("stdin");
        fs::write(&file, stdin).unwrap();
        let mut command = self.command(arguments);
        let output = command.stdin(fs::File::open(file).unwrap()).output().unwrap();
        Run {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn history_path(&self, session: &str) -> PathBuf {
        let folder = self.work().to_str().unwrap().replace('/', "-");
        let projects = self.home().join(".claude/projects");
        projects.join(folder).join(format!("{session}.jsonl"))
    }

    pub(crate) fn history(&self, session: &str) -> Vec<Value> {
        json_lines(&fs::read_to_string(self.history_path(session)).unwrap())
    }
}

impl Run {
    pub(crate) fn events(&self) -> Vec<Value> {
        json_lines(&self.stdout)
    }

    pub(crate) fn result(&self) -> Value {
        self.events().pop().unwrap()
    }

    pub(crate) fn session(&self) -> String {
        self.result()["session_id"].as_str().unwrap().to_owned()
    }
}

/// A program that has not finished yet; it is killed when this is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdin: Option<ChildStdin>,
    pub(crate) stdout: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Running {
        let mut child = command.spawn().unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdin, stdout }
    }

    pub(crate) fn send(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Reads events up to the first of this type.
    pub(crate) fn wait_for(&mut self, kind: &str) -> Value {
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "no {kind} event came");
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["type"] == kind {
                return event;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code as a shell reports it: 128+n for signal n.
pub(crate) fn shell_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
}

pub(crate) fn kill_by_number(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

pub(crate) fn make_fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
