//! A TCP socket, first blocking with a limit, then non-blocking.
//!
//! While it dials, each call blocks until the deadline or the stop signal, so a handshake is written
//! sequentially. Afterwards the socket is non-blocking and returns `WouldBlock`.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect as start_connect, socket,
};

use crate::signal::Signal;
use crate::wait::{Interest, wait};

pub(crate) struct Socket {
    tcp: TcpStream,
    limit: Option<WaitLimit>,
    allowance: usize,
}

/// The limit of a blocking call: a deadline and a stop signal.
#[derive(Clone)]
pub(crate) struct WaitLimit {
    pub(crate) signal: Arc<Signal>,
    pub(crate) deadline: Instant,
}

impl Socket {
    /// Connects until `deadline`; later calls block until the whole limit.
    pub(crate) fn connect(
        address: SocketAddr,
        limit: &WaitLimit,
        deadline: Instant,
    ) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let tcp = TcpStream::from(socket(family, SockType::Stream, flags, None)?);
        match start_connect(tcp.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) => {}
            Err(Errno::EINPROGRESS | Errno::EINTR) => {
                await_connection(&tcp, &WaitLimit { deadline, ..limit.clone() })?;
            }
            Err(error) => return Err(error.into()),
        }
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, limit: Some(limit.clone()), allowance: usize::MAX })
    }

    /// Sets how many bytes may be read until the next call; after that reads return `WouldBlock`. So a
    /// fast peer cannot keep the reader in its loop.
    pub(crate) fn allow(&mut self, allowance: usize) {
        self.allowance = allowance;
    }

    /// Whether the allowance is used up.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.allowance == 0
    }

    /// Makes all further calls non-blocking.
    pub(crate) fn set_nonblocking(&mut self) {
        self.limit = None;
    }

    fn retry<T>(
        &mut self,
        interest: Interest,
        mut call: impl FnMut(&mut TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let error = match call(&mut self.tcp) {
                Err(error) => error,
                done => return done,
            };
            match (error.kind(), &self.limit) {
                (ErrorKind::Interrupted, _) => {}
                (ErrorKind::WouldBlock, Some(limit)) => limit.wait(self.tcp.as_fd(), interest)?,
                _ => return Err(error),
            }
        }
    }
}

fn await_connection(tcp: &TcpStream, limit: &WaitLimit) -> io::Result<()> {
    loop {
        limit.wait(tcp.as_fd(), Interest::Write)?;
        if let Some(error) = tcp.take_error()? {
            return Err(error);
        }
        match tcp.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            other => return other.map(drop),
        }
    }
}

impl WaitLimit {
    /// An error after the deadline or the stop signal.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.signal.is_stopped() {
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "the subscription is closed"));
        }
        if Instant::now() >= self.deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, "no answer before the deadline"));
        }
        Ok(())
    }

    fn wait(&self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.check()?;
        wait(&self.signal, Some((fd, interest)), Some(self.deadline))?;
        // The deadline is not checked again: the descriptor may have become ready just in time.
        if self.signal.is_stopped() { self.check() } else { Ok(()) }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.allowance);
        let Some(buffer) = buffer.get_mut(..length).filter(|_| !self.is_exhausted()) else {
            return Err(ErrorKind::WouldBlock.into());
        };
        let count = self.retry(Interest::Read, |tcp| tcp.read(buffer))?;
        self.allowance -= count;
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.retry(Interest::Write, |tcp| tcp.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp.as_fd()
    }
}
