//! The process of a running proxy, and the messages to and from it.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use process::Status;

use crate::launch::{LaunchOptions, LaunchedProxy, launch};
use crate::message::{MAX_LINE, ProxyEvent};
use crate::observer::NamePolicy;
use crate::{Error, Result};

/// The time-out of the start: Python on a loaded host is slow.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// How much of its output is kept, for errors.
const OUTPUT_LIMIT: usize = 2048;
/// The size of one read.
const CHUNK: usize = 64 << 10;

/// A running proxy. Dropping it kills it.
pub(crate) struct ProxyProcess {
    running: LaunchedProxy,
    pub(crate) phase: Phase,
    inbox: Vec<u8>,
    pub(crate) outbox: Vec<u8>,
    output: Vec<u8>,
    /// Commands without a reply, by their number.
    pub(crate) pending: HashMap<u64, PendingCommand>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    Starting { deadline: Instant },
    Serving { since: Instant },
}

/// A command that waits for the proxy's reply.
pub(crate) enum PendingCommand {
    Register(Ipv4Addr, Sender<Result<NamePolicy>>),
    /// Registration of a VM with a restarted proxy.
    Reregister(Ipv4Addr),
    Unregister {
        vm: Ipv4Addr,
        _done: Sender<()>,
    },
    Serve,
}

impl ProxyProcess {
    pub(crate) fn start(launched: LaunchOptions<'_>) -> Result<Self> {
        let running = launch(launched)?;
        let options = fcntl(&running.errors, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        options
            .map_err(|errno| Error::Socket { operation: "set up a pipe", source: errno.into() })?;
        log::debug!("proxy started; pid={}", running.child.pid());
        let phase = Phase::Starting { deadline: Instant::now() + READY_TIMEOUT };
        let (inbox, outbox, output) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Self { running, phase, inbox, outbox, output, pending: HashMap::new() })
    }

    /// The descriptors to poll.
    pub(crate) fn interests(&self) -> [PollFd<'_>; 3] {
        let mut control = PollFlags::POLLIN;
        control.set(PollFlags::POLLOUT, !self.outbox.is_empty());
        [
            PollFd::new(self.running.control.as_fd(), control),
            PollFd::new(self.running.child.pidfd(), PollFlags::POLLIN),
            PollFd::new(self.running.errors.as_fd(), PollFlags::POLLIN),
        ]
    }

    /// Writes the outbox and returns received events. After an error the proxy must be dropped.
    pub(crate) fn exchange(&mut self) -> Result<Vec<ProxyEvent>> {
        self.read_output();
        let ended = self.running.child.try_wait().map_err(|source| Error::Spawn { source })?;
        let events = self.send().and_then(|()| self.receive());
        if let Some(status) = ended {
            return Err(self.failure(match status {
                Status::Exited(code) => format!("ended with code {code}"),
                Status::Signalled { signal, .. } => format!("was killed by signal {signal}"),
            }));
        }
        if let Phase::Starting { deadline } = self.phase
            && deadline <= Instant::now()
        {
            return Err(self.failure(format!("has not become ready in {READY_TIMEOUT:?}")));
        }
        events.map_err(|error| self.failure(format!("failed on its control socket: {error}")))
    }

    /// Writes the outbox.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.send().map_err(|error| self.failure(format!("failed on its control socket: {error}")))
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

    fn receive(&mut self) -> io::Result<Vec<ProxyEvent>> {
        let mut chunk = vec![0; CHUNK];
        match (&self.running.control).read(&mut chunk) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.inbox.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let mut events = Vec::new();
        let mut lines = self.inbox.split_inclusive(|byte| *byte == b'\n').peekable();
        let mut rest = 0;
        while let Some(line) = lines.next_if(|line| line.ends_with(b"\n")) {
            rest += line.len();
            match serde_json::from_slice(line) {
                Ok(event) => events.push(event),
                // Its content may come from a guest: it is not logged, and the proxy goes on.
                Err(error) => {
                    let (kind, bytes) = (error.classify(), line.len());
                    log::error!("cannot read a message of the proxy; kind={kind:?} bytes={bytes}");
                }
            }
        }
        self.inbox.drain(..rest);
        if self.inbox.len() > MAX_LINE {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(events)
    }

    fn read_output(&mut self) {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = nix::unistd::read(&self.running.errors, &mut chunk) {
            let chunk = chunk.get(..count).unwrap_or_default();
            log::debug!("output of the proxy; text={:?}", String::from_utf8_lossy(chunk));
            self.output.extend_from_slice(chunk);
            let excess = self.output.len().saturating_sub(OUTPUT_LIMIT);
            self.output.drain(..excess);
        }
    }

    fn failure(&self, problem: String) -> Error {
        let text = String::from_utf8_lossy(&self.output);
        // Prefer the line of a Python exception: later lines only event that there was one.
        let mut lines = text.lines().rev();
        let last = lines.clone().find(|line| line.contains("Error: "));
        let last = last.or_else(|| lines.find(|line| !line.trim().is_empty()));
        let output = last.map(|line| format!("; its output: {}", line.trim())).unwrap_or_default();
        Error::ProxyFailed { problem, output }
    }
}

/// The proxy's descriptor of the listener.
pub(crate) fn duplicate(listener: &std::net::TcpListener) -> Result<OwnedFd> {
    let failed = |source| Error::Socket { operation: "duplicate a socket", source };
    listener.try_clone().map(OwnedFd::from).map_err(failed)
}
