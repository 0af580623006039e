//! A proxy that runs, and the bytes between it and us.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use process::Status;

use crate::launch::{Launch, Running, launch};
use crate::message::{LONGEST, Report};
use crate::supervisor::Waiting;
use crate::{Error, Result};

/// How long a proxy may take to become ready: Python on a loaded host is slow.
const READY: Duration = Duration::from_secs(60);
/// How much of its last words is kept.
const LAST_WORDS: usize = 2048;
/// So much is read at once.
const CHUNK: usize = 64 << 10;

/// A proxy that runs. Dropping it kills it.
pub(crate) struct Link {
    running: Running,
    pub(crate) phase: Phase,
    inbox: Vec<u8>,
    pub(crate) outbox: Vec<u8>,
    words: Vec<u8>,
    /// What it was asked, and who waits for it.
    pub(crate) waiting: HashMap<u64, Waiting>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    Starting { deadline: Instant },
    Serving { since: Instant },
}

impl Link {
    pub(crate) fn start(launched: Launch<'_>) -> Result<Self> {
        let running = launch(launched)?;
        let options = fcntl(&running.errors, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        options
            .map_err(|errno| Error::Socket { operation: "set up a pipe", source: errno.into() })?;
        log::debug!("proxy started; pid={}", running.child.pid());
        let phase = Phase::Starting { deadline: Instant::now() + READY };
        let (inbox, outbox, words) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { running, phase, inbox, outbox, words, waiting: HashMap::new() })
    }

    /// What says that there is something to do.
    pub(crate) fn interests(&self) -> [PollFd<'_>; 3] {
        let mut control = PollFlags::POLLIN;
        control.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        [
            PollFd::new(self.running.control.as_fd(), control),
            PollFd::new(self.running.child.pidfd(), PollFlags::POLLIN),
            PollFd::new(self.running.errors.as_fd(), PollFlags::POLLIN),
        ]
    }

    /// Sends what there is to send, and returns what has come. An error is the proxy's end.
    pub(crate) fn converse(&mut self) -> Result<Vec<Report>> {
        self.hear_words();
        let ended = self.running.child.try_wait().map_err(|source| Error::Spawn { source })?;
        let reports = self.send().and_then(|()| self.receive());
        if let Some(status) = ended {
            return Err(self.down(match status {
                Status::Exited(code) => format!("ended with code {code}"),
                Status::Signalled { signal, .. } => format!("was killed by signal {signal}"),
            }));
        }
        if let Phase::Starting { deadline } = self.phase
            && deadline <= Instant::now()
        {
            return Err(self.down(format!("has not become ready in {READY:?}")));
        }
        reports.map_err(|error| self.down(format!("cannot be talked to: {error}")))
    }

    /// Sends what there is to send.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.send().map_err(|error| self.down(format!("cannot be talked to: {error}")))
    }

    fn send(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match (&self.running.control).write(&self.outbox) {
                Ok(count) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn receive(&mut self) -> io::Result<Vec<Report>> {
        let mut chunk = vec![0; CHUNK];
        match (&self.running.control).read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.inbox.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let mut reports = Vec::new();
        let mut lines = self.inbox.split_inclusive(|byte| *byte == b'\n').peekable();
        let mut rest = 0;
        while let Some(line) = lines.next_if(|line| line.ends_with(b"\n")) {
            rest += line.len();
            match serde_json::from_slice(line) {
                Ok(report) => reports.push(report),
                // What is in it is a guest's in part: it is not repeated, and ends nobody's traffic.
                Err(error) => {
                    let (kind, bytes) = (error.classify(), line.len());
                    log::error!("the proxy is not understood; kind={kind:?} bytes={bytes}");
                }
            }
        }
        self.inbox.drain(..rest);
        if self.inbox.len() > LONGEST {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(reports)
    }

    fn hear_words(&mut self) {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = nix::unistd::read(&self.running.errors, &mut chunk) {
            let said = chunk.get(..count).unwrap_or_default();
            log::debug!("the proxy says {:?}", String::from_utf8_lossy(said));
            self.words.extend_from_slice(said);
            let over = self.words.len().saturating_sub(LAST_WORDS);
            self.words.drain(..over);
        }
    }

    fn down(&self, problem: String) -> Error {
        let text = String::from_utf8_lossy(&self.words);
        // An exception of Python's, if there is one: what comes after it only says that there was.
        let mut lines = text.lines().rev();
        let last = lines.clone().find(|line| line.contains("Error: "));
        let last = last.or_else(|| lines.find(|line| !line.trim().is_empty()));
        let words = last.map(|line| format!("; it said: {}", line.trim())).unwrap_or_default();
        Error::Down { problem, words }
    }
}

/// The listener as the proxy is to have it.
pub(crate) fn duplicate(listener: &std::net::TcpListener) -> Result<OwnedFd> {
    let failed = |source| Error::Socket { operation: "duplicate a socket", source };
    listener.try_clone().map(OwnedFd::from).map_err(failed)
}
