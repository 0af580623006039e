//! The host's programs that a build runs: which they are, how they are started,
//! and what is said when one fails.
//!
//! They run without a shell and with an environment of their own. What a tool
//! writes to stderr goes into a file of the staging folder, so nothing has to
//! drain a pipe; its last lines become part of the error.

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use crate::error::{Error, Result};
use crate::stage::Stage;

/// A program of the host and the Debian package that has it.
#[derive(Debug)]
pub(crate) struct Tool {
    pub(crate) name: &'static str,
    pub(crate) package: &'static str,
    why: &'static str,
}

pub(crate) const MKSQUASHFS: Tool =
    Tool { name: "mksquashfs", package: "squashfs-tools", why: "packs the root file system" };
pub(crate) const MKE2FS: Tool =
    Tool { name: "mke2fs", package: "e2fsprogs", why: "formats the writable disk" };
pub(crate) const MMDEBSTRAP: Tool =
    Tool { name: "mmdebstrap", package: "mmdebstrap", why: "installs a debian:SUITE source" };
pub(crate) const APT_GET: Tool =
    Tool { name: "apt-get", package: "apt", why: "downloads the kernel package" };
pub(crate) const APT_CACHE: Tool =
    Tool { name: "apt-cache", package: "apt", why: "finds the kernel package" };
pub(crate) const DPKG_DEB: Tool =
    Tool { name: "dpkg-deb", package: "dpkg", why: "opens the kernel package" };

pub(crate) const NPM: Tool =
    Tool { name: "npm", package: "npm", why: "fetches the programs of recipes" };

/// What every image needs; npm is for recipes.
const NEEDED: [&Tool; 6] = [&MKSQUASHFS, &MKE2FS, &MMDEBSTRAP, &APT_GET, &APT_CACHE, &DPKG_DEB];

/// A host tool that image builds need and that is not on the search path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingTool {
    /// The program's name.
    pub tool: &'static str,
    /// The Debian package that has it.
    pub package: &'static str,
    /// What it is needed for, as a phrase: `packs the root file system`.
    pub why: &'static str,
    /// Whether no image can be built without it.
    pub is_needed: bool,
}

/// Every host tool that a build would not find.
pub fn missing_tools() -> Vec<MissingTool> {
    let path = search_path();
    let found = |tool: &Tool| env::split_paths(&path).any(|dir| dir.join(tool.name).is_file());
    let missing = |tool: &Tool, is_needed| MissingTool {
        tool: tool.name,
        package: tool.package,
        why: tool.why,
        is_needed,
    };
    let needed = NEEDED.into_iter().map(|tool| (tool, true));
    needed
        .chain([(&NPM, false)])
        .filter(|(tool, _)| !found(tool))
        .map(|(tool, is_needed)| missing(tool, is_needed))
        .collect()
}

/// What of a tool's streams the caller holds; the others are empty or logged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Streams {
    Output,
    Input,
    Both,
    Neither,
}

/// A started tool; killed and reaped if dropped before `finish`.
pub(crate) struct Running {
    tool: &'static Tool,
    child: Child,
    log: PathBuf,
}

impl Tool {
    /// A command with an empty environment save what every tool needs.
    pub(crate) fn command(&self) -> Command {
        const PASSED: [&str; 5] =
            ["http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY"];
        let mut command = Command::new(self.name);
        command.env_clear().env("PATH", search_path()).env("LC_ALL", "C.UTF-8");
        command.envs(PASSED.into_iter().filter_map(|name| Some((name, env::var_os(name)?))));
        command
    }

    /// Starts `command`.
    pub(crate) fn start(
        &'static self,
        mut command: Command,
        streams: Streams,
        stage: &Stage,
    ) -> Result<Running> {
        let path = stage.path(&format!("{}.log", self.name));
        let fail = |source| Error::Write { path: path.clone(), source };
        let log = File::create(&path).map_err(fail)?;
        let (stdin, stdout) = match streams {
            Streams::Output => (Stdio::null(), Stdio::piped()),
            Streams::Input => (Stdio::piped(), log.try_clone().map_err(fail)?.into()),
            Streams::Both => (Stdio::piped(), Stdio::piped()),
            Streams::Neither => (Stdio::null(), log.try_clone().map_err(fail)?.into()),
        };
        command.stdin(stdin).stdout(stdout).stderr(log);
        let child = command.spawn().map_err(|source| match source.kind() {
            ErrorKind::NotFound => Error::MissingTool { tool: self.name, package: self.package },
            _ => Error::StartTool { tool: self.name, source },
        })?;
        Ok(Running { tool: self, child, log: path })
    }

    /// Runs `command` to its end.
    pub(crate) fn run(&'static self, command: Command, stage: &Stage) -> Result<()> {
        self.start(command, Streams::Neither, stage)?.finish()
    }

    /// Runs `command` to its end and returns what it wrote to stdout.
    pub(crate) fn output(&'static self, command: Command, stage: &Stage) -> Result<String> {
        const LIMIT: u64 = 4 << 20;
        let mut running = self.start(command, Streams::Output, stage)?;
        let mut bytes = Vec::new();
        if let Some(stdout) = running.stdout() {
            stdout
                .take(LIMIT)
                .read_to_end(&mut bytes)
                .map_err(|source| Error::ReadTool { tool: self.name, source })?;
        }
        running.finish()?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl Running {
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    pub(crate) fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Waits for the end and turns any but a good one into an error.
    pub(crate) fn finish(mut self) -> Result<()> {
        let status =
            self.child.wait().map_err(|source| Error::ReadTool { tool: self.tool.name, source })?;
        if status.success() {
            return Ok(());
        }
        let log = fs::read(&self.log).unwrap_or_default();
        Err(Error::ToolFailed { tool: self.tool.name, status, output: last_lines(&log) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only for a child that was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The caller's search path and the folders for root's tools, which an
/// ordinary user's lacks.
fn search_path() -> std::ffi::OsString {
    let mut path = env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    path.push(":/usr/sbin:/sbin");
    path
}

/// The last lines of a log on one line, without control characters.
fn last_lines(log: &[u8]) -> String {
    const LINES: usize = 5;
    let tail = log.get(log.len().saturating_sub(2048)..).unwrap_or_default();
    let text = String::from_utf8_lossy(tail);
    let lines: Vec<&str> =
        text.split(['\n', '\r']).map(str::trim).filter(|l| !l.is_empty()).collect();
    let kept = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("; ");
    kept.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Reporter;

    const SHELL: Tool = Tool { name: "sh", package: "dash", why: "tests" };
    const ABSENT: Tool = Tool { name: "no-such-tool", package: "no-package", why: "tests" };

    fn stage() -> (tempfile::TempDir, Stage) {
        let dir = tempfile::tempdir().unwrap();
        let stage = Stage::enter(dir.path(), &mut Reporter::new(&mut |_| ())).unwrap();
        (dir, stage)
    }

    fn shell(script: &str) -> Command {
        let mut command = SHELL.command();
        command.args(["-c", script]);
        command
    }

    #[test]
    fn failed_tool_is_reported_with_the_last_lines_it_wrote() {
        let (_dir, stage) = stage();

        let error = SHELL.run(shell("echo first; echo boom >&2; exit 3"), &stage).unwrap_err();

        assert_eq!(error.to_string(), "sh failed (exit status: 3): first; boom");
    }

    #[test]
    fn missing_tool_is_reported_with_its_package() {
        let (_dir, stage) = stage();

        let error = ABSENT.run(ABSENT.command(), &stage).unwrap_err();

        assert_eq!(error.to_string(), "cannot find no-such-tool: install package no-package");
    }

    #[test]
    fn output_returns_stdout_alone() {
        let (_dir, stage) = stage();

        let output = SHELL.output(shell("echo good; echo bad >&2"), &stage).unwrap();

        assert_eq!(output, "good\n");
    }

    #[test]
    fn environment_of_the_caller_is_not_passed_on() {
        let (_dir, stage) = stage();

        let output = SHELL.output(shell("echo ${CARGO_MANIFEST_DIR-unset}"), &stage).unwrap();

        assert_eq!(output, "unset\n");
    }

    #[test]
    fn last_lines_drops_blank_lines_and_control_characters() {
        assert_eq!(last_lines(b"a\n\nb\x1b[1m\n"), "a; b[1m");
    }
}
