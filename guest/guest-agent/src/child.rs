//! The CLI as a process, and the pipes to it.

use std::fs::File;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use guest_common::RunFolder;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use process::{Child, Command, Status};

use crate::config::Config;
use crate::{Error, Result, cli};

/// How much is read at once: what a pipe holds.
pub(crate) const PIPE: usize = 64 << 10;

/// A CLI that was started.
pub(crate) struct Cli {
    pub(crate) process: Child,
    pub(crate) input: Input,
    pub(crate) stdout: Output,
    pub(crate) stderr: Output,
}

/// What is still to be written to its standard input; closed when all of it is.
pub(crate) struct Input {
    pipe: Option<File>,
    bytes: Vec<u8>,
    written: usize,
}

/// The other end of its standard output or error.
pub(crate) struct Output {
    /// None from its end on.
    pipe: Option<File>,
}

impl Cli {
    /// Starts it: in a session of its own, with an environment of its own, and so that it does not
    /// outlive this process.
    pub(crate) fn start(config: &Config, folder: &RunFolder, working_dir: &Path) -> Result<Self> {
        let (program, arguments) = cli::arguments(config, folder, working_dir)?;
        let (stdin, input) = pipe_in()?;
        let (stdout_pipe, stdout) = pipe_out()?;
        let (stderr_pipe, stderr) = pipe_out()?;
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

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: i32) {
        if let Err(error) = self.process.signal(signal) {
            log::error!("{}", guest_common::chain(&error));
        }
    }

    /// How it ended, if it has.
    pub(crate) fn status(&self) -> Result<Option<Status>> {
        self.process.try_wait().map_err(|source| Error::Process { source })
    }
}

impl Input {
    /// The pipe, as long as there is something to write to it.
    pub(crate) fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(File::as_fd)
    }

    /// Writes what the pipe takes.
    pub(crate) fn write(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        while self.written < self.bytes.len() {
            match pipe.write(&self.bytes[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // It may have read enough; what it makes of that, it says itself.
                    log::warn!("the agent takes no more of its prompt; error={error}");
                    break;
                }
            }
        }
        self.pipe = None;
        self.bytes = Vec::new();
    }
}

impl Output {
    /// The pipe, as long as more may come.
    pub(crate) fn waiting(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(File::as_fd)
    }

    /// Reads what is there; zero if there is nothing now, or never again.
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

/// A pipe to the child: its end, and ours, which does not block.
fn pipe_in() -> Result<(PipeReader, File)> {
    let (theirs, ours) = io::pipe().map_err(|source| Error::Pipe { source })?;
    Ok((theirs, unblocked(ours)?))
}

/// A pipe from the child: ours, which does not block, and its end.
fn pipe_out() -> Result<(File, PipeWriter)> {
    let (ours, theirs) = io::pipe().map_err(|source| Error::Pipe { source })?;
    Ok((unblocked(ours)?, theirs))
}

fn unblocked(pipe: impl Into<OwnedFd>) -> Result<File> {
    let pipe = pipe.into();
    fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))
        .map_err(|errno| Error::Pipe { source: errno.into() })?;
    Ok(File::from(pipe))
}
