//! What a command reads from its standard input, written to it by the thread `stdin`: a command
//! that does not read must not keep its output from being shown.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use sandbox::Execution;

use crate::error::{Error, Result};
use crate::signal::{stop_and_join, stop_event};

const CHUNK: usize = 64 << 10;

/// Where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// Nowhere.
    Nothing,
    /// From our own standard input.
    Stdin,
    /// These bytes, and no more.
    Bytes(Vec<u8>),
}

/// The thread. Dropping it stops and joins it; until the command has ended or its guest is gone,
/// that may have to wait for the command.
pub(crate) struct Feeder {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Input {
    /// Begins to write to the command.
    pub(crate) fn feed(&self, execution: &Arc<dyn Execution>) -> Result<Option<Feeder>> {
        let source = match self {
            Self::Nothing => return Ok(None),
            Self::Stdin => {
                let stdin = io::stdin().as_fd().try_clone_to_owned();
                Source::File(stdin.map_err(|source| Error::Stdin { source })?.into())
            }
            Self::Bytes(bytes) => Source::Bytes(bytes.clone()),
        };
        Feeder::start(source, Arc::clone(execution)).map(Some)
    }
}

enum Source {
    File(File),
    Bytes(Vec<u8>),
}

impl Feeder {
    fn start(source: Source, execution: Arc<dyn Execution>) -> Result<Self> {
        let stop = stop_event().map_err(|errno| Error::Stdin { source: errno.into() })?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        let feed = move || {
            if let Err(error) = feed(source, &*execution, &stopped) {
                log::debug!("standard input is no longer passed on; error={error}");
            }
        };
        let thread = thread::Builder::new()
            .name("stdin".into())
            .spawn(feed)
            .map_err(|source| Error::Thread { name: "stdin", source })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        stop_and_join("stdin", &self.stop, &mut self.thread);
    }
}

fn feed(source: Source, execution: &dyn Execution, stop: &EventFd) -> Result<()> {
    match source {
        Source::Bytes(bytes) => {
            for chunk in bytes.chunks(CHUNK) {
                execution.write_stdin(chunk, None)?;
            }
        }
        Source::File(mut file) => {
            let mut buffer = vec![0; CHUNK];
            while wait(&file, stop)? {
                match file.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => execution.write_stdin(&buffer[..count], None)?,
                    Err(error) if is_temporary(&error) => {}
                    Err(source) => return Err(Error::Stdin { source }),
                }
            }
        }
    }
    Ok(execution.close_stdin()?)
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Sleeps until there is input; `false` once it is time to stop.
fn wait(file: &File, stop: &EventFd) -> Result<bool> {
    let mut fds = [
        PollFd::new(file.as_fd(), PollFlags::POLLIN),
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) => Ok(!fds[1].any().unwrap_or(true)),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(Error::Stdin { source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::fd::OwnedFd;
    use std::time::Instant;

    use sandbox::fake::{Factory, Script};
    use sandbox::{ExecRequest, SandboxFactory as _};

    use super::*;

    fn cat() -> (Factory, Arc<dyn Execution>) {
        let factory = Script::default().on("cat", &[], 0).factory();
        let sandbox = factory
            .start(&crate::request::tests::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let request = ExecRequest { argv: vec!["cat".into()], ..ExecRequest::default() };
        let execution = sandbox.exec(&request, Instant::now()).unwrap().into();
        (factory, execution)
    }

    #[test]
    fn everything_up_to_the_end_of_the_input_is_written() {
        let (factory, execution) = cat();
        let (rx, mut tx) = io::pipe().unwrap();
        tx.write_all(b"one two").unwrap();
        drop(tx);
        let file = Source::File(OwnedFd::from(rx).into());

        feed(file, &*execution, &stop_event().unwrap()).unwrap();

        assert_eq!(factory.record().stdin, b"one two");
    }

    #[test]
    fn a_silent_input_does_not_hold_up_the_end() {
        let (factory, execution) = cat();
        let (rx, _tx) = io::pipe().unwrap();
        let file = Source::File(OwnedFd::from(rx).into());

        drop(Feeder::start(file, execution).unwrap());

        assert!(factory.record().stdin.is_empty());
    }

    #[test]
    fn bytes_larger_than_a_chunk_arrive_whole() {
        let (factory, execution) = cat();
        let bytes = vec![7; 3 * CHUNK + 1];

        feed(Source::Bytes(bytes.clone()), &*execution, &stop_event().unwrap()).unwrap();

        assert_eq!(factory.record().stdin, bytes);
    }
}
