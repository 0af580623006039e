//! A TCP socket that is waited for, first patiently, then not at all.
//!
//! A thread that dials waits in each call, until the deadline or its signal: so a handshake is written
//! from top to bottom. Afterwards the socket is made impatient, and says `WouldBlock`.

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
    patience: Option<Patience>,
    allowance: usize,
}

/// How long somebody waits, and who may disturb them.
#[derive(Clone)]
pub(crate) struct Patience {
    pub(crate) signal: Arc<Signal>,
    pub(crate) deadline: Instant,
}

impl Socket {
    /// Connects until `deadline`; all that follows has the whole patience.
    pub(crate) fn connect(
        address: SocketAddr,
        patience: &Patience,
        deadline: Instant,
    ) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let tcp = TcpStream::from(socket(family, SockType::Stream, flags, None)?);
        match start_connect(tcp.as_raw_fd(), &SockaddrStorage::from(address)) {
            Ok(()) => {}
            Err(Errno::EINPROGRESS | Errno::EINTR) => {
                await_connection(&tcp, &Patience { deadline, ..patience.clone() })?;
            }
            Err(error) => return Err(error.into()),
        }
        tcp.set_nodelay(true)?;
        Ok(Self { tcp, patience: Some(patience.clone()), allowance: usize::MAX })
    }

    /// How much may be read until this is said again; then there is nothing, as far as who reads can
    /// tell. So no peer can keep somebody reading who looks for the end of something.
    pub(crate) fn allow(&mut self, allowance: usize) {
        self.allowance = allowance;
    }

    /// Whether as much was read as was allowed.
    pub(crate) fn is_used_up(&self) -> bool {
        self.allowance == 0
    }

    /// From now on no call waits.
    pub(crate) fn lose_patience(&mut self) {
        self.patience = None;
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
            match (error.kind(), &self.patience) {
                (ErrorKind::Interrupted, _) => {}
                (ErrorKind::WouldBlock, Some(patience)) => {
                    patience.wait(self.tcp.as_fd(), interest)?
                }
                _ => return Err(error),
            }
        }
    }
}

fn await_connection(tcp: &TcpStream, patience: &Patience) -> io::Result<()> {
    loop {
        patience.wait(tcp.as_fd(), Interest::Write)?;
        if let Some(error) = tcp.take_error()? {
            return Err(error);
        }
        match tcp.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            other => return other.map(drop),
        }
    }
}

impl Patience {
    /// Fails when it is over.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.signal.is_given() {
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "the subscription is closed"));
        }
        if Instant::now() >= self.deadline {
            return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
        }
        Ok(())
    }

    fn wait(&self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<()> {
        self.check()?;
        wait(&self.signal, Some((fd, interest)), Some(self.deadline))?;
        // Not after the deadline: what became ready just in time is still good.
        if self.signal.is_given() { self.check() } else { Ok(()) }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(self.allowance);
        let Some(buffer) = buffer.get_mut(..length).filter(|_| !self.is_used_up()) else {
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
