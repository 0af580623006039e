//! Runs a script with bash and captures its output. A signal kills bash and ends the program.
//!
//! While bash runs the thread sleeps in one `poll` over two descriptors:
//!
//! | readable | then |
//! |---|---|
//! | the pipe that is bash's stdout and stderr | read output |
//! | the signalfd: SIGCHLD | return if bash has exited |
//! | the signalfd: SIGTERM, SIGINT, SIGHUP | kill bash's process group, return |
//!
//! The wait ends when bash exits, not at the end of the pipe: a process that bash left may hold the
//! pipe open.

use std::fs::File;
use std::io::{self, PipeReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::error::{Error, Result};

/// The most bytes of output that are reported, as in the real CLI.
const OUTPUT_LIMIT: usize = 30_000;

/// `MAX_ARG_STRLEN` without the final NUL: the longest argument of execve.
const ARGUMENT_LIMIT: usize = 128 * 1024 - 1;

/// A pipe's capacity, hence the most bytes in it when bash exits.
const PIPE_CAPACITY: usize = 64 * 1024;

/// The result of a script.
pub(crate) struct Run {
    /// Bash's exit code, 128+n if signal n ended it.
    pub(crate) code: u8,
    /// Stdout and stderr interleaved, without trailing line feeds.
    pub(crate) output: String,
}

/// Runs a script in the working directory until bash exits.
pub(crate) fn run(script: &str) -> Result<Run> {
    let signals = Signals::block()?;
    let (pipe, mut bash) = start(script)?;
    let mut output = Output { pipe, head: Vec::new(), total: 0, ended: false };
    let status = match wait(&mut bash, &signals, &mut output) {
        Ok(status) => status,
        Err(error) => {
            kill_group(&mut bash);
            return Err(error);
        }
    };
    Ok(Run { code: code_of(status), output: output.into_text() })
}

fn start(script: &str) -> Result<(PipeReader, Child)> {
    let start_error = |source| Error::Start { program: "bash", source };
    let (reader, writer) = io::pipe().map_err(start_error)?;
    let second = writer.try_clone().map_err(start_error)?;
    let mut command = Command::new("bash");
    if script.len() <= ARGUMENT_LIMIT {
        command.args(["-c", "--", script]).stdin(Stdio::null());
    } else {
        command.args(["-c", ". /dev/stdin"]).stdin(in_memory(script)?);
    }
    command.stdout(writer).stderr(second).process_group(0);
    let bash = command.spawn().map_err(start_error)?;
    Ok((reader, bash))
}

/// A memfd that holds the script. Its offset stays at the end: bash opens it again to read the script,
/// whereas the script's commands inherit it as an empty stdin.
fn in_memory(script: &str) -> Result<File> {
    let file = memfd_create(c"script", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from);
    let mut file = file.map(File::from).map_err(|source| Error::Script { source })?;
    file.write_all(script.as_bytes()).map_err(|source| Error::Script { source })?;
    Ok(file)
}

fn wait(bash: &mut Child, signals: &Signals, output: &mut Output) -> Result<ExitStatus> {
    loop {
        if !has_signal(output, signals)? {
            output.read()?;
            continue;
        }
        match signals.next()? {
            Some(Signal::SIGCHLD) => {
                let status = bash.try_wait().map_err(|source| Error::Wait { source })?;
                if let Some(status) = status {
                    output.read_rest()?;
                    return Ok(status);
                }
            }
            Some(signal) => return Err(Error::Stopped { signal: signal as u8 }),
            None => {}
        }
    }
}

/// Sleeps until a signal or output can be read. Returns whether there is a signal.
fn has_signal(output: &Output, signals: &Signals) -> Result<bool> {
    let mut fds = [
        PollFd::new(signals.fd.as_fd(), PollFlags::POLLIN),
        PollFd::new(output.pipe.as_fd(), PollFlags::POLLIN),
    ];
    // A pipe at its end is always readable, so it is not polled any more.
    let polled = if output.ended { &mut fds[..1] } else { &mut fds[..] };
    poll_through_interrupts(polled, PollTimeout::NONE)?;
    Ok(fds[0].any().unwrap_or(false))
}

fn poll_through_interrupts(fds: &mut [PollFd<'_>], timeout: PollTimeout) -> Result<()> {
    loop {
        match poll(fds, timeout) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Wait { source: errno.into() }),
        }
    }
}

/// Kills bash's process group and reaps bash.
fn kill_group(bash: &mut Child) {
    // Bash is not reaped yet, so its pid is still its own. ESRCH means that the group has exited.
    let _ = killpg(Pid::from_raw(bash.id() as i32), Signal::SIGKILL);
    let _ = bash.wait();
}

fn code_of(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

/// A signalfd for the signals that matter while bash runs. Dropping it unblocks them.
///
/// Otherwise they keep their default action, so that they end the process while it blocks on stdin or
/// stdout.
struct Signals {
    fd: SignalFd,
    mask_before: SigSet,
}

impl Signals {
    fn block() -> Result<Signals> {
        let signals = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
            .into_iter()
            .collect();
        Signals::block_set(&signals).map_err(|source| Error::Signals { source })
    }

    fn block_set(signals: &SigSet) -> nix::Result<Signals> {
        let fd = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mask_before = SigSet::thread_get_mask()?;
        signals.thread_block()?;
        Ok(Signals { fd, mask_before })
    }

    fn next(&self) -> Result<Option<Signal>> {
        let info = self.fd.read_signal().map_err(|source| Error::Signals { source })?;
        Ok(info.and_then(|info| Signal::try_from(info.ssi_signo as i32).ok()))
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // Restoring an earlier mask cannot fail.
        let _ = self.mask_before.thread_set_mask();
    }
}

/// The beginning of the output, and its total length.
struct Output {
    pipe: PipeReader,
    /// INVARIANT: at most one byte more than the limit; that byte shows where a character starts.
    head: Vec<u8>,
    total: usize,
    ended: bool,
}

impl Output {
    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; PIPE_CAPACITY];
        let count = self.pipe.read(&mut buffer).map_err(|source| Error::ReadOutput { source })?;
        self.ended = count == 0;
        self.total += count;
        let room = OUTPUT_LIMIT + 1 - self.head.len();
        self.head.extend_from_slice(&buffer[..count.min(room)]);
        Ok(())
    }

    /// Reads what the pipe holds when bash has exited. One read gets all of it; more output could only
    /// come from a process that bash left.
    fn read_rest(&mut self) -> Result<()> {
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        poll_through_interrupts(&mut fds, PollTimeout::ZERO)?;
        match fds.map(|fd| fd.any().unwrap_or(false)) {
            [true] if !self.ended => self.read(),
            _ => Ok(()),
        }
    }

    fn into_text(self) -> String {
        let end = boundary(&self.head, OUTPUT_LIMIT);
        let head = String::from_utf8_lossy(&self.head[..end]);
        match self.total - end {
            0 => head.trim_end_matches('\n').to_owned(),
            cut => format!("{head}\n... [{cut} bytes truncated] ..."),
        }
    }
}

/// The largest length up to `limit` that does not split a UTF-8 character.
fn boundary(bytes: &[u8], limit: usize) -> usize {
    let starts = |&end: &usize| bytes.get(end).is_none_or(|byte| byte & 0xc0 != 0x80);
    let limit = limit.min(bytes.len());
    (limit.saturating_sub(3)..=limit).rev().find(starts).unwrap_or(limit)
}
