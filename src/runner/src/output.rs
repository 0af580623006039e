//! Standard output and error, written through: what a command prints is seen at once.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox::Stream;

use crate::error::{Error, Result};

/// Both streams.
pub(crate) struct Output {
    stdout: Blocking,
    stderr: Blocking,
}

impl Output {
    pub(crate) fn open() -> Result<Self> {
        let failed = |source| Error::Output { source };
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(failed)?;
        let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(failed)?;
        Ok(Self { stdout: Blocking(stdout.into()), stderr: Blocking(stderr.into()) })
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

/// Waits where a descriptor would block: somebody who shares it may have made it non-blocking.
struct Blocking(File);

impl Write for Blocking {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
                    poll(&mut fds, PollTimeout::NONE)?;
                }
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
