//! Writes the standard input of a command, from the thread `stdin`: a command that does not read must
//! not block its output.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use base::event::Event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox::Execution;

use crate::error::{Error, Result};
use crate::signal::stop_and_join;

const CHUNK: usize = 64 << 10;

/// The source of a command's standard input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// None.
    Nothing,
    /// Standard input of this process.
    Stdin,
    /// These bytes.
    Bytes(Vec<u8>),
}

/// The thread `stdin`. Dropping it stops and joins it, which may block while the command runs and its
/// guest is connected.
pub(crate) struct Feeder {
    stop: Arc<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Input {
    /// Starts to write to the command.
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
        let stop = Event::new().map_err(|errno| Error::Stdin { source: errno.into() })?;
        let stop = Arc::new(stop);
        let stopped = Arc::clone(&stop);
        let feed = move || {
            if let Err(error) = feed(source, &*execution, &stopped) {
                log::debug!("standard input is no longer forwarded; error={error}");
            }
        };
        let thread = base::thread::spawn("stdin", feed)
            .map_err(|source| Error::Thread { name: "stdin", source })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        stop_and_join(&self.stop, &mut self.thread);
    }
}

fn feed(source: Source, execution: &dyn Execution, stop: &Event) -> Result<()> {
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

/// Waits for input; `false` once `stop` is set.
fn wait(file: &File, stop: &Event) -> Result<bool> {
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
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let request = ExecRequest { argv: vec!["cat".into()], ..ExecRequest::default() };
        let execution = sandbox.exec(&request, Instant::now()).unwrap().into();
        (factory, execution)
    }

    #[test]
    fn input_is_written_up_to_its_end() {
        let (factory, execution) = cat();
        let (rx, mut tx) = io::pipe().unwrap();
        tx.write_all(b"one two").unwrap();
        drop(tx);
        let file = Source::File(OwnedFd::from(rx).into());

        feed(file, &*execution, &Event::new().unwrap()).unwrap();

        assert_eq!(factory.record().stdin, b"one two");
    }

    #[test]
    fn a_feeder_stops_while_its_input_is_silent() {
        let (factory, execution) = cat();
        let (rx, _tx) = io::pipe().unwrap();
        let file = Source::File(OwnedFd::from(rx).into());

        drop(Feeder::start(file, execution).unwrap());

        assert!(factory.record().stdin.is_empty());
    }

    #[test]
    fn input_larger_than_a_chunk_is_written_completely() {
        let (factory, execution) = cat();
        let bytes = vec![7; 3 * CHUNK + 1];

        feed(Source::Bytes(bytes.clone()), &*execution, &Event::new().unwrap()).unwrap();

        assert_eq!(factory.record().stdin, bytes);
    }
}
