//! The CLI's process and its non-blocking pipes.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use guest_common::RunFolder;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use process::{Child, Command, Status};

use crate::config::Config;
use crate::{Error, Result, cli};

/// The kernel's default capacity of a pipe.
pub(crate) const PIPE_CAPACITY: usize = 64 << 10;

/// A started CLI.
pub(crate) struct Cli {
    pub(crate) process: Child,
    pub(crate) input: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

/// The CLI's standard input, closed once the prompt is written.
pub(crate) struct Input {
    pipe: Option<File>,
    bytes: Vec<u8>,
    written: usize,
}

/// The CLI's standard output or error.
pub(crate) struct Output {
    /// `None` after its end.
    pipe: Option<File>,
}

impl Cli {
    /// Starts the CLI in its own session and environment. The kernel kills it if this process dies.
    pub(crate) fn start(config: &Config, folder: &RunFolder, working_dir: &Path) -> Result<Self> {
        let (program, arguments) = cli::arguments(config, folder, working_dir)?;
        let (stdin, input) = input_pipe()?;
        let (stdout_pipe, stdout) = output_pipe()?;
        let (stderr_pipe, stderr) = output_pipe()?;
        let mut command = Command::new(program)
            .args(arguments)
            .cwd(working_dir)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr)
            .new_session()
            .parent_death_signal(nix::libc::SIGKILL);
        for (name, value) in cli::environment(config) {
            command = command.env(name, value);
        }
        let process = command.spawn().map_err(|source| Error::Start { source })?;
        let input = Input { pipe: Some(input), bytes: cli::input(config), written: 0 };
        let [stdout, stderr] = [stdout_pipe, stderr_pipe].map(|pipe| Output { pipe: Some(pipe) });
        Ok(Self { process, input, stdout, stderr })
    }

    /// Sends the CLI a signal.
    pub(crate) fn signal(&self, signal: i32) {
        if let Err(error) = self.process.signal(signal) {
            log::error!("{}", base::error::chain(&error));
        }
    }

    /// The exit status, if the CLI has exited.
    pub(crate) fn status(&self) -> Result<Option<Status>> {
        self.process.try_wait().map_err(|source| Error::Process { source })
    }
}

impl Input {
    /// The pipe, while part of the prompt is not written.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(File::as_fd)
    }

    /// Writes as much as the pipe takes.
    pub(crate) fn write(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        while self.written < self.bytes.len() {
            match pipe.write(&self.bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // Not an error of the run: the CLI itself reports a prompt that it could not read.
                    log::warn!("the agent closed its standard input early; error={error}");
                    break;
                }
            }
        }
        self.pipe = None;
        self.bytes = Vec::new();
    }
}

impl Output {
    /// The pipe, until its end.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(File::as_fd)
    }

    /// Reads what the pipe holds. Zero if it is empty or at its end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let Some(pipe) = &mut self.pipe else { return Ok(0) };
        loop {
            match pipe.read(buffer) {
                Ok(0) => {
                    self.pipe = None;
                    return Ok(0);
                }
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Read { source }),
            }
        }
    }
}

/// A pipe to the child: the child's end, and ours, which does not block.
fn input_pipe() -> Result<(PipeReader, File)> {
    let (theirs, ours) = io::pipe().map_err(|source| Error::Pipe { source })?;
    Ok((theirs, nonblocking(ours)?))
}

/// A pipe from the child: our end, which does not block, and the child's.
fn output_pipe() -> Result<(File, PipeWriter)> {
    let (ours, theirs) = io::pipe().map_err(|source| Error::Pipe { source })?;
    Ok((nonblocking(ours)?, theirs))
}

fn nonblocking(pipe: impl Into<OwnedFd>) -> Result<File> {
    let pipe = pipe.into();
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|errno| Error::Pipe { source: errno.into() })?;
    Ok(File::from(pipe))
}
