//! Standard output and error, written through: what a command prints is seen at once.
//!
//! Whoever reads them may stop reading without leaving. A write then waits, and signals are taken
//! by another thread, so the wait has to end by itself once the run is called off: see
//! [`Output::until`].

use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use sandbox::Stream;

use crate::error::{Error, Result};
use crate::terminal::harmless;

/// How much a descriptor that is ready takes without making its writer wait: `PIPE_BUF`. A pipe is
/// ready as soon as it has room for that.
const AT_ONCE: usize = 4096;

/// Both streams.
pub(crate) struct Output {
    pub(crate) stdout: Descriptor,
    pub(crate) stderr: Descriptor,
}

impl Output {
    pub(crate) fn open() -> Result<Self> {
        let stdout = Descriptor::open(io::stdout())?;
        let stderr = Descriptor::open(io::stderr())?;
        Ok(Self { stdout, stderr })
    }

    /// A write that would wait for a reader fails from when `called_off` is raised; the others are
    /// done all the same. See [`Error::is_cancelled_output`].
    pub(crate) fn until(self, called_off: &Arc<EventFd>) -> Self {
        Self { stdout: self.stdout.until(called_off), stderr: self.stderr.until(called_off) }
    }

    pub(crate) fn write(&mut self, stream: Stream, data: &[u8]) -> io::Result<()> {
        match stream {
            Stream::Stdout => self.stdout.write_all(data),
            Stream::Stderr => self.stderr.write_all(data),
        }
    }

    pub(crate) fn stdout(&mut self) -> &mut impl Write {
        &mut self.stdout
    }
}

/// Prints a result, a line. Unlike `println!` it does not panic if nobody reads it.
pub(crate) fn line(text: impl Display) -> Result<()> {
    let mut output = Output::open()?;
    writeln!(output.stdout(), "{text}").map_err(|source| Error::Output { source })
}

/// Tells people something, a line on standard error, with what a guest chose escaped. If that is
/// closed, they do not want to know.
pub(crate) fn remark(text: impl Display) {
    if let Ok(mut output) = Output::open() {
        let text = harmless(&format!("{text}\n"));
        let _ = output.stderr.write_all(text.as_bytes());
    }
}

/// The same, unless it would have to wait for a reader.
pub(crate) fn last_words(text: impl Display) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
        remark(text);
    }
}

/// One of them. It may be shared with others, so that its flags are not ours to change, and
/// somebody may have made it non-blocking.
pub(crate) struct Descriptor {
    file: File,
    called_off: Option<Arc<EventFd>>,
}

impl Descriptor {
    fn open(stream: impl AsFd) -> Result<Self> {
        let fd = stream.as_fd().try_clone_to_owned();
        let file = fd.map_err(|source| Error::Output { source })?.into();
        Ok(Self { file, called_off: None })
    }

    fn until(self, called_off: &Arc<EventFd>) -> Self {
        // Nobody reads a regular file: it never makes its writer wait.
        let waits = !self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let file = terminal(&self.file).unwrap_or(self.file);
        Self { file, called_off: waits.then(|| Arc::clone(called_off)) }
    }

    /// Sleeps until there is room.
    fn wait(&self) -> io::Result<()> {
        let room = PollFd::new(self.file.as_fd(), PollFlags::POLLOUT);
        let Some(called_off) = &self.called_off else {
            return sleep(&mut [room]);
        };
        let mut fds = [room, PollFd::new(called_off.as_fd(), PollFlags::POLLIN)];
        sleep(&mut fds)?;
        match fds.map(|fd| fd.any().unwrap_or(true)) {
            [false, true] => Err(Errno::ECANCELED.into()),
            _ => Ok(()),
        }
    }
}

/// A terminal is ready as soon as it has room for a byte, and a write of more waits. So it is opened
/// once more, where being non-blocking is nobody else's concern.
fn terminal(file: &File) -> Option<File> {
    if !file.is_terminal() {
        return None;
    }
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    File::options().write(true).custom_flags(flags).open(path).ok()
}

fn sleep(fds: &mut [PollFd<'_>]) -> io::Result<()> {
    loop {
        match poll(fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            other => return Ok(other.map(drop)?),
        }
    }
}

impl Write for Descriptor {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut piece = data;
        if self.called_off.is_some() {
            piece = &data[..data.len().min(AT_ONCE)];
            self.wait()?;
        }
        loop {
            match self.file.write(piece) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::thread;

    use super::*;
    use crate::signal::stop_event;

    fn pipe() -> (io::PipeReader, Descriptor, Arc<EventFd>) {
        let (rx, tx) = io::pipe().unwrap();
        let called_off = Arc::new(stop_event().unwrap());
        (rx, Descriptor::open(tx).unwrap().until(&called_off), called_off)
    }

    #[test]
    fn a_reader_that_stops_reading_holds_nobody_up_once_the_run_is_cancelled_output() {
        let (_rx, mut descriptor, called_off) = pipe();
        thread::scope(|scope| {
            let writer = scope.spawn(move || descriptor.write_all(&vec![b'y'; 1 << 20]));
            called_off.write(1).unwrap();

            let error = writer.join().unwrap().unwrap_err();

            assert!(Error::Output { source: error }.is_cancelled_output());
        });
    }

    #[test]
    fn a_terminal_that_nobody_reads_does_not_either() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let called_off = Arc::new(stop_event().unwrap());
        let mut descriptor = Descriptor::open(&pty.slave).unwrap().until(&called_off);
        thread::scope(|scope| {
            let writer = scope.spawn(move || descriptor.write_all(&vec![b'\n'; 1 << 20]));
            called_off.write(1).unwrap();

            let error = writer.join().unwrap().unwrap_err();

            assert!(Error::Output { source: error }.is_cancelled_output());
        });
    }

    #[test]
    fn what_there_is_room_for_is_written_even_then() {
        let (mut rx, mut descriptor, called_off) = pipe();
        called_off.write(1).unwrap();

        descriptor.write_all(&[b'y'; AT_ONCE + 1]).unwrap();
        drop(descriptor);

        let mut read = Vec::new();
        assert_eq!(rx.read_to_end(&mut read).unwrap(), AT_ONCE + 1);
    }

    #[test]
    fn a_slow_reader_gets_everything() {
        let (mut rx, mut descriptor, _called_off) = pipe();
        thread::scope(|scope| {
            scope.spawn(move || descriptor.write_all(&vec![b'y'; 1 << 20]).unwrap());
            let mut read = Vec::new();
            assert_eq!(rx.read_to_end(&mut read).unwrap(), 1 << 20);
        });
    }

    #[test]
    fn a_reader_that_leaves_is_a_broken_pipe_and_not_called_off() {
        let (rx, mut descriptor, called_off) = pipe();
        drop(rx);
        called_off.write(1).unwrap();
        let error = descriptor.write(b"y").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
