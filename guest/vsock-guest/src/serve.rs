//! The loop: one connection and all its commands.
//!
//! 1. Send what is ready.
//! 2. Sleep until something happens, at most until the next time-out.
//! 3. Take the host's messages, write input, read output, reap.
//! 4. Kill what has run too long.
//! 5. Pass on what the threads of transfers have.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use vsock_proto::{CHUNK, Decoder, Exec, GuestBody, Outcome, RequestId, Stream};

use crate::command::Command;
use crate::connection::Connection;
use crate::link::{Link, Peer};
use crate::listeners::PortWatch;
use crate::transfer::Transfer;
use crate::{Error, Result, Service};

/// How long the end of a connection may take: to flush the last answer, to stop its threads.
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

const NO_TIME: TimeSpec = TimeSpec::from_duration(Duration::ZERO);

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It closed or was reset.
    Disconnected {
        /// Whether the host had welcomed us: then it may be dialled again at once.
        was_welcome: bool,
    },
    /// The host does not want us, for this reason; it must not be dialled again.
    Rejected(String),
    /// The host asks for the machine to be turned off.
    Shutdown,
}

/// Serves `connection` until it ends. Its commands and transfers are ended by then.
pub fn serve(connection: OwnedFd, service: &mut Service) -> Result<End> {
    let mut server = Server::new(connection, service)?;
    let end = server.run();
    server.stop();
    end
}

pub(crate) struct Server<'a> {
    pub(crate) link: Link,
    pub(crate) service: &'a mut Service,
    pub(crate) commands: BTreeMap<RequestId, Command>,
    pub(crate) transfers: BTreeMap<RequestId, Transfer>,
    pub(crate) connections: BTreeMap<RequestId, Connection>,
    pub(crate) port_watches: BTreeMap<RequestId, PortWatch>,
    /// Commands whose last part has not come.
    pub(crate) partial: BTreeMap<RequestId, Exec>,
    pub(crate) waker: Arc<EventFd>,
    pub(crate) is_welcome: bool,
    /// The quiesce request under way, and whether it is done: then only the host's next message
    /// makes us speak again.
    pub(crate) quiesce: Option<RequestId>,
    pub(crate) is_silent: bool,
    /// Whether there may be garbage to collect.
    pub(crate) has_garbage: bool,
    decoder: Decoder,
    pub(crate) buffer: Vec<u8>,
    turn: usize,
}

/// The owner of a descriptor that the loop polls.
#[derive(Debug, Clone, Copy)]
enum Source {
    Link,
    Waker,
    Pidfd(RequestId),
    Input(RequestId),
    Output(RequestId, Stream),
    /// A pipe of a process that outlived its command.
    Survivor(u64),
    Connection(RequestId),
}

impl<'a> Server<'a> {
    fn new(connection: OwnedFd, service: &'a mut Service) -> Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let waker =
            EventFd::from_flags(flags).map_err(|errno| Error::Prepare { source: errno.into() })?;
        Ok(Self {
            link: Link::new(connection)?,
            service,
            commands: BTreeMap::new(),
            transfers: BTreeMap::new(),
            connections: BTreeMap::new(),
            port_watches: BTreeMap::new(),
            partial: BTreeMap::new(),
            waker: Arc::new(waker),
            is_welcome: false,
            quiesce: None,
            is_silent: false,
            has_garbage: true,
            decoder: Decoder::new(),
            buffer: vec![0; CHUNK],
            turn: 0,
        })
    }

    fn run(&mut self) -> Result<End> {
        let hello = self.service.hello();
        self.link.greet(&hello)?;
        loop {
            // 1 Send.
            if self.link.flush() == Peer::Gone {
                return Ok(self.disconnected());
            }
            // 2 Sleep; but before a sleep of any length, collect garbage.
            let ready = self.wait()?;
            if ready.is_empty() && std::mem::take(&mut self.has_garbage) {
                self.service.garbage.collect();
            }
            // 3 Act.
            for source in ready {
                if let Some(end) = self.act(source)? {
                    return Ok(end);
                }
            }
            // 4 Time out.
            self.expire();
            self.look_at_ports()?;
            // 5 Transfer.
            self.pump()?;
        }
    }

    fn disconnected(&self) -> End {
        End::Disconnected { was_welcome: self.is_welcome }
    }

    /// The descriptors that have something for us. In turns another command is the first, so
    /// that all get their share of a slow connection.
    fn wait(&mut self) -> Result<Vec<Source>> {
        let mut sources = vec![Source::Link, Source::Waker];
        let mut fds = vec![
            PollFd::new(self.link.as_fd(), self.link_interest()),
            PollFd::new(self.waker.as_fd(), PollFlags::POLLIN),
        ];
        let mut watch = |source, fd, flags| {
            sources.push(source);
            fds.push(PollFd::new(fd, flags));
        };
        let is_mute = self.is_mute();
        let mut last_words = Vec::new();
        let first = self.turn % self.commands.len().max(1);
        let ordered = self.commands.iter().skip(first);
        for (id, command) in ordered.chain(self.commands.iter().take(first)) {
            if let Some(fd) = command.pidfd() {
                watch(Source::Pidfd(*id), fd, PollFlags::POLLIN);
            }
            if let Some(fd) = command.input.wanted() {
                watch(Source::Input(*id), fd, PollFlags::POLLOUT);
            }
            for (stream, output) in command.outputs().filter(|_| !is_mute) {
                match output.wanted() {
                    // Only a read shows that the pipe is empty: another process may hold it open.
                    Some(_) if command.has_ended() && !command.is_followed() => {
                        last_words.push(Source::Output(*id, stream))
                    }
                    Some(fd) => watch(Source::Output(*id, stream), fd, PollFlags::POLLIN),
                    None => {}
                }
            }
        }
        for (key, pipe) in self.service.survivors.pipes() {
            watch(Source::Survivor(key), pipe, PollFlags::POLLIN);
        }
        for (id, connection) in &self.connections {
            if let Some((fd, flags)) = connection.wanted(is_mute) {
                watch(Source::Connection(*id), fd, flags);
            }
        }
        self.turn = self.turn.wrapping_add(1);
        let timeout = if last_words.is_empty() { self.timeout() } else { Some(NO_TIME) };
        match ppoll(&mut fds, timeout, None) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(errno) => {
                return Err(Error::Wait { source: errno.into() });
            }
        }
        let is_ready = |fd: &PollFd<'_>| fd.revents().is_none_or(|flags| !flags.is_empty());
        let ready = sources.into_iter().zip(&fds);
        let ready = ready.filter_map(|(source, fd)| is_ready(fd).then_some(source));
        Ok(ready.chain(last_words).collect())
    }

    fn link_interest(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.link.is_deaf());
        flags.set(PollFlags::POLLOUT, !self.link.is_flushed());
        flags
    }

    /// Whether output has to wait.
    pub(crate) fn is_mute(&self) -> bool {
        self.is_silent || self.link.is_congested()
    }

    /// How long to sleep at most.
    fn timeout(&self) -> Option<TimeSpec> {
        if self.has_garbage && self.link.is_flushed() {
            return Some(NO_TIME);
        }
        let timeouts = self.commands.values().filter_map(Command::deadline);
        let looks = self.port_watches.values().map(PortWatch::next).filter(|_| !self.is_mute());
        let next = timeouts.chain(looks).min()?;
        let left = next.saturating_duration_since(Instant::now());
        // The kernel refuses times that its clock cannot hold; then it is as good as never.
        Some(TimeSpec::from_duration(left.min(Duration::from_secs(1 << 30))))
    }

    fn act(&mut self, source: Source) -> Result<Option<End>> {
        match source {
            Source::Link => return self.hear(),
            // Non-blocking, and what it says is looked at after each sleep anyway.
            Source::Waker => drop(self.waker.read()),
            Source::Pidfd(id) => self.reap(id)?,
            Source::Input(id) => {
                if let Some(command) = self.commands.get_mut(&id)
                    && let Some(grant) = command.input.write()
                {
                    self.link.send(id, GuestBody::Credit(grant))?;
                }
            }
            Source::Output(id, stream) => self.read(id, stream)?,
            Source::Survivor(key) => self.service.survivors.drain(key, &mut self.buffer),
            Source::Connection(id) => self.go_on(id)?,
        }
        Ok(None)
    }

    /// Takes what the host has sent.
    fn hear(&mut self) -> Result<Option<End>> {
        if self.link.is_deaf() {
            return Ok(None);
        }
        let mut decoder = std::mem::take(&mut self.decoder);
        if self.link.receive(&mut decoder) == Peer::Gone {
            return Ok(Some(self.disconnected()));
        }
        while let Some(message) = decoder.next()? {
            if let Some(end) = self.handle_message(message)? {
                return Ok(Some(end));
            }
        }
        self.decoder = decoder;
        Ok(None)
    }

    /// Reads a command's output once and sends it.
    fn read(&mut self, id: RequestId, stream: Stream) -> Result<()> {
        if self.is_mute() {
            return Ok(());
        }
        self.look_before_output()?;
        let Some(command) = self.commands.get_mut(&id) else {
            return Ok(());
        };
        if let Some(output) = command.output(stream) {
            let bytes = output.read(&mut self.buffer);
            if !bytes.is_empty() {
                self.link.send(id, GuestBody::Data(stream, bytes))?;
            }
        }
        self.finish(id)
    }

    fn reap(&mut self, id: RequestId) -> Result<()> {
        let Some(command) = self.commands.get_mut(&id) else {
            return Ok(());
        };
        command.reap();
        if !command.has_ended() {
            return Ok(());
        }
        // What it left in its pipes, at once as far as it may be sent.
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.read(id, stream)?;
        }
        self.finish(id)
    }

    /// Reports a command's end once all of its output is sent.
    pub(crate) fn finish(&mut self, id: RequestId) -> Result<()> {
        if self.is_silent {
            return Ok(());
        }
        let Some(command) = self.commands.get_mut(&id) else {
            return Ok(());
        };
        let Some(exit) = command.exit() else {
            return Ok(());
        };
        if command.follow() {
            self.link.send(id, GuestBody::Ended(exit))?;
            return self.finish(id);
        }
        self.link.send(id, GuestBody::Exit(exit))?;
        if let Some(command) = self.commands.remove(&id) {
            let (_, cgroup, pipes) = command.into_parts();
            self.service.garbage.add_cgroup(cgroup);
            pipes.into_iter().for_each(|pipe| self.service.survivors.add(pipe));
            self.has_garbage = true;
        }
        Ok(())
    }

    fn expire(&mut self) {
        let now = Instant::now();
        for command in self.commands.values_mut() {
            if command.deadline().is_some_and(|deadline| deadline <= now) {
                command.kill(Outcome::TimedOut);
            }
        }
    }

    /// Sends the transfers' events within their credit; each turn starts with another transfer.
    fn pump(&mut self) -> Result<()> {
        if self.is_silent || self.transfers.is_empty() {
            return Ok(());
        }
        let mut ids: Vec<RequestId> = self.transfers.keys().copied().collect();
        let first = self.turn % ids.len();
        ids.rotate_left(first);
        for id in ids {
            let Some(transfer) = self.transfers.get_mut(&id) else {
                continue;
            };
            if !transfer.pump(id, &mut self.link)? {
                continue;
            }
            if let Some(transfer) = self.transfers.remove(&id) {
                self.service.garbage.add_thread(transfer.into_thread());
                self.has_garbage = true;
            }
            if self.quiesce == Some(id) {
                self.quiesce = None;
                self.is_silent = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ends all commands and transfers of the connection: signals all, then waits for them.
    fn stop(&mut self) {
        for command in self.commands.values_mut() {
            command.kill(Outcome::Cancelled);
        }
        for transfer in self.transfers.values_mut() {
            transfer.cancel();
        }
        let deadline = Instant::now() + DRAIN_TIMEOUT;
        for (_, transfer) in std::mem::take(&mut self.transfers) {
            if let Some(thread) = transfer.stop(deadline) {
                log::warn!("a transfer's thread does not stop; it is joined later");
                self.service.garbage.add_thread(thread);
            }
        }
        for (_, command) in std::mem::take(&mut self.commands) {
            let (child, cgroup, _) = command.into_parts();
            match child.wait_until(deadline) {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.service.garbage.add_child(child),
            }
            self.service.garbage.add_cgroup(cgroup);
        }
    }
}
