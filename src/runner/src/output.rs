//! Unbuffered standard output and error.
//!
//! A reader may stop reading without closing its end. A write then blocks, and signals are handled by
//! another thread, so a cancellation must end the write: see [`Output::cancel_on`].

use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use base::event::Event;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox::Stream;

use crate::error::{Error, Result};
use crate::terminal::harmless;

/// How many bytes a descriptor accepts without blocking once poll(2) reports it writable: `PIPE_BUF`.
const NONBLOCKING_SIZE: usize = 4096;

/// Standard output and error of this process.
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

    /// Once `cancelled` is set, a write that would block fails; see [`Error::is_cancelled_output`]. Other
    /// writes still succeed.
    pub(crate) fn cancel_on(self, cancelled: &Arc<Event>) -> Self {
        Self { stdout: self.stdout.cancel_on(cancelled), stderr: self.stderr.cancel_on(cancelled) }
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

/// Prints a line of results to standard output. Unlike `println!` it does not panic on a broken pipe.
pub(crate) fn line(text: impl Display) -> Result<()> {
    let mut output = Output::open()?;
    writeln!(output.stdout(), "{text}").map_err(|source| Error::Output { source })
}

/// Prints a line to standard error, with control characters escaped. Errors are ignored.
pub(crate) fn remark(text: impl Display) {
    if let Ok(mut output) = Output::open() {
        let text = harmless(&format!("{text}\n"));
        let _ = output.stderr.write_all(text.as_bytes());
    }
}

/// As [`remark`], unless it would block.
pub(crate) fn remark_if_ready(text: impl Display) {
    let stderr = io::stderr();
    let mut fds = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut fds, PollTimeout::ZERO) == Ok(1) {
        remark(text);
    }
}

/// One of the streams. Other processes may share it, so its flags are not changed; another process may
/// have made it non-blocking.
pub(crate) struct Descriptor {
    file: File,
    cancelled: Option<Arc<Event>>,
}

impl Descriptor {
    fn open(stream: impl AsFd) -> Result<Self> {
        let fd = stream.as_fd().try_clone_to_owned();
        let file = fd.map_err(|source| Error::Output { source })?.into();
        Ok(Self { file, cancelled: None })
    }

    fn cancel_on(self, cancelled: &Arc<Event>) -> Self {
        // A write to a regular file never blocks.
        let can_block = !self.file.metadata().is_ok_and(|metadata| metadata.is_file());
        let file = terminal(&self.file).unwrap_or(self.file);
        Self { file, cancelled: can_block.then(|| Arc::clone(cancelled)) }
    }

    /// Waits until the descriptor is writable.
    fn wait(&self) -> io::Result<()> {
        let room = PollFd::new(self.file.as_fd(), PollFlags::POLLOUT);
        let Some(cancelled) = &self.cancelled else {
            return sleep(&mut [room]);
        };
        let mut fds = [room, PollFd::new(cancelled.as_fd(), PollFlags::POLLIN)];
        sleep(&mut fds)?;
        match fds.map(|fd| fd.any().unwrap_or(true)) {
            [false, true] => Err(Errno::ECANCELED.into()),
            _ => Ok(()),
        }
    }
}

/// Opens a terminal again as non-blocking. poll(2) reports a terminal writable when it has room for a
/// single byte, so larger writes could block; the new file description is not shared.
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
        if self.cancelled.is_some() {
            piece = &data[..data.len().min(NONBLOCKING_SIZE)];
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

    fn pipe() -> (io::PipeReader, Descriptor, Arc<Event>) {
        let (rx, tx) = io::pipe().unwrap();
        let cancelled = Arc::new(Event::new().unwrap());
        (rx, Descriptor::open(tx).unwrap().cancel_on(&cancelled), cancelled)
    }

    #[test]
    fn a_cancellation_ends_a_write_to_a_pipe_that_is_not_read_output() {
        let (_rx, mut descriptor, cancelled) = pipe();
        thread::scope(|scope| {
            let writer = scope.spawn(move || descriptor.write_all(&vec![b'y'; 1 << 20]));
            cancelled.set();

            let error = writer.join().unwrap().unwrap_err();

            assert!(Error::Output { source: error }.is_cancelled_output());
        });
    }

    #[test]
    fn a_cancellation_ends_a_write_to_a_terminal_that_is_not_read() {
        let pty = nix::pty::openpty(None, None).unwrap();
        let cancelled = Arc::new(Event::new().unwrap());
        let mut descriptor = Descriptor::open(&pty.slave).unwrap().cancel_on(&cancelled);
        thread::scope(|scope| {
            let writer = scope.spawn(move || descriptor.write_all(&vec![b'\n'; 1 << 20]));
            cancelled.set();

            let error = writer.join().unwrap().unwrap_err();

            assert!(Error::Output { source: error }.is_cancelled_output());
        });
    }

    #[test]
    fn a_write_that_does_not_block_succeeds_after_a_cancellation() {
        let (mut rx, mut descriptor, cancelled) = pipe();
        cancelled.set();

        descriptor.write_all(&[b'y'; NONBLOCKING_SIZE + 1]).unwrap();
        drop(descriptor);

        let mut read = Vec::new();
        assert_eq!(rx.read_to_end(&mut read).unwrap(), NONBLOCKING_SIZE + 1);
    }

    #[test]
    fn a_slow_reader_receives_everything() {
        let (mut rx, mut descriptor, _cancelled) = pipe();
        thread::scope(|scope| {
            scope.spawn(move || descriptor.write_all(&vec![b'y'; 1 << 20]).unwrap());
            let mut read = Vec::new();
            assert_eq!(rx.read_to_end(&mut read).unwrap(), 1 << 20);
        });
    }

    #[test]
    fn a_closed_pipe_is_a_broken_pipe_and_not_a_cancellation() {
        let (rx, mut descriptor, cancelled) = pipe();
        drop(rx);
        cancelled.set();
        let error = descriptor.write(b"y").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
