//! Processes in nodes. They end with this process, however that ends: a shell waits for the end of its
//! standard input, which is a pipe from here.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::Node;

/// Runs a program and prints its pid. Until the shell has waited for it, the pid is that program's.
const SCRIPT: &str = r#"
    "$@" </dev/null &
    echo "pid $!"
    exec >/dev/null
    read -r end
    kill -KILL $! 2>/dev/null
    wait $!
"#;

/// A running program. Dropping it kills it.
pub(crate) struct Process {
    shell: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    pid: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts a program, whose standard error is appended to `log`.
    pub(crate) fn start(node: &Node, log: &Path, program: &[OsString]) -> Self {
        let file = fs::File::options().create(true).append(true).open(log).unwrap();
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", SCRIPT, "sh"]).args(program).env("RUST_LOG", "info").stderr(file);
        // A signal to this process's group must not end the shell before its program.
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut shell = node.within(|| shell.spawn().unwrap());
        let (input, output) = (shell.stdin.take(), BufReader::new(shell.stdout.take().unwrap()));
        let pid = Pid::from_raw(0);
        let mut process = Self { shell, input, output, pid, log: log.to_owned() };
        process.pid = Pid::from_raw(process.line("pid ").parse().unwrap());
        process
    }

    /// The rest of the next line that begins so. The program prints it once it is ready.
    pub(crate) fn line(&mut self, begin: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            if self.output.read_line(&mut line).unwrap() == 0 {
                panic!("a program ended early: {}", fs::read_to_string(&self.log).unwrap());
            }
            if let Some(rest) = line.trim_end().strip_prefix(begin) {
                return rest.to_owned();
            }
        }
    }

    /// Sends SIGTERM to it, or to its child if it has one, and waits for the end of both.
    pub(crate) fn terminate(mut self) {
        let path = format!("/proc/{}/task/{}/children", self.pid, self.pid);
        let child = fs::read_to_string(path).unwrap();
        let child = child.split_whitespace().next().map(|pid| Pid::from_raw(pid.parse().unwrap()));
        kill(child.unwrap_or(self.pid), Signal::SIGTERM).unwrap();
        // The output ends with the last process that has it.
        while self.output.read_line(&mut String::new()).unwrap() > 0 {}
        self.end();
    }

    fn end(&mut self) {
        if self.input.take().is_some() {
            self.shell.wait().unwrap();
        }
    }
}

impl Drop for Process {
    /// As `kill -9`.
    fn drop(&mut self) {
        self.end();
    }
}
