//! A connection of the host's to a port in the guest.
//!
//! ```text
//!   connecting: to one address after the other ─▶ open ─▶ both ways have ended: Done
//!         └─ nothing listens: Failed                └─ it broke, or was cancelled: Failed
//! ```
//!
//! INVARIANT: holds at most a window of bytes for the socket, and reads only what may be sent.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, connect, setsockopt, socket,
    sockopt,
};
use vsock_proto::{Connect, Failure, GuestBody, ReceiveWindow, RequestId, SendWindow, Stream};

use crate::Result;
use crate::account::errno;
use crate::failure::{cancelled, refused, text};
use crate::link::Link;
use crate::listeners;

#[derive(Debug)]
pub(crate) struct Connection {
    socket: TcpStream,
    port: u16,
    /// The addresses to try if this one refuses.
    others: VecDeque<SocketAddr>,
    is_open: bool,
    /// Bytes that the socket has not taken yet.
    queue: VecDeque<u8>,
    receive: ReceiveWindow,
    /// The host sends no more.
    input_ended: bool,
    is_shut: bool,
    send: SendWindow,
    /// The socket has no more for the host.
    output_ended: bool,
}

impl Connection {
    /// Begins to connect.
    pub(crate) fn begin(request: Connect) -> std::result::Result<Self, Failure> {
        let port = request.port;
        let mut others = addresses(port);
        let socket = next_of(&mut others).map_err(|errno| refuse(port, errno))?;
        Ok(Self {
            socket,
            port,
            others,
            is_open: false,
            queue: VecDeque::new(),
            receive: ReceiveWindow::default(),
            input_ended: false,
            is_shut: false,
            send: SendWindow::default(),
            output_ended: false,
        })
    }

    /// The socket and the events to poll for; none if it waits for the host.
    pub(crate) fn wanted(&self, is_mute: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        let reads = self.is_open && !self.output_ended && self.send.available() > 0 && !is_mute;
        flags.set(PollFlags::POLLIN, reads);
        flags.set(PollFlags::POLLOUT, !self.is_open || !self.queue.is_empty());
        (!flags.is_empty()).then_some((self.socket.as_fd(), flags))
    }

    pub(crate) fn granted(&mut self, count: u64) -> vsock_proto::Result<()> {
        self.send.granted(count)
    }

    /// Takes bytes from the host; the credit to grant now.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> vsock_proto::Result<Option<u64>> {
        self.receive.received(bytes.len() as u64)?;
        if self.input_ended {
            return Ok(self.receive.consumed(bytes.len() as u64));
        }
        self.queue.extend(bytes);
        Ok(None)
    }

    /// The host sends no more.
    pub(crate) fn end(&mut self) {
        self.input_ended = true;
    }

    /// Resets it, so that the peer sees an error.
    pub(crate) fn cancel(self, id: RequestId, link: &mut Link) -> Result<()> {
        break_off(&self.socket);
        link.send(id, GuestBody::Failed(cancelled()))
    }

    /// Makes progress without waiting; returns whether it is finished and reported to the host.
    pub(crate) fn go_on(
        &mut self,
        id: RequestId,
        link: &mut Link,
        buffer: &mut [u8],
        is_mute: bool,
    ) -> Result<bool> {
        match self.pump(id, link, buffer, is_mute)? {
            Ok(is_finished) => {
                if is_finished {
                    link.send(id, GuestBody::Done)?;
                }
                Ok(is_finished)
            }
            Err(error) => {
                break_off(&self.socket);
                link.send(id, GuestBody::Failed(refuse(self.port, errno(&error))))?;
                Ok(true)
            }
        }
    }

    fn pump(
        &mut self,
        id: RequestId,
        link: &mut Link,
        buffer: &mut [u8],
        is_mute: bool,
    ) -> Result<io::Result<bool>> {
        if !self.is_open {
            match self.opened() {
                Ok(true) => link.send(id, GuestBody::Connected)?,
                other => return Ok(other.map(|_| false)),
            }
            self.is_open = true;
        }
        match self.write() {
            Ok(taken) => {
                if let Some(grant) = self.receive.consumed(taken) {
                    link.send(id, GuestBody::Credit(grant))?;
                }
            }
            Err(error) => return Ok(Err(error)),
        }
        if !is_mute && !self.output_ended && self.send.available() > 0 {
            match self.read(buffer) {
                Ok(None) => {}
                Ok(Some([])) => {
                    self.output_ended = true;
                    link.send(id, GuestBody::End)?;
                }
                Ok(Some(bytes)) => link.send(id, GuestBody::Data(Stream::Stdout, bytes))?,
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(self.output_ended && self.is_shut))
    }

    /// Whether it is open by now; an error if no address is left.
    fn opened(&mut self) -> io::Result<bool> {
        let refusal = self.socket.take_error()?;
        let Some(error) = refusal else {
            return match self.socket.peer_addr() {
                Ok(_) => Ok(true),
                Err(error) if error.kind() == ErrorKind::NotConnected => Ok(false),
                Err(error) => Err(error),
            };
        };
        self.socket = next_of(&mut self.others).map_err(|_| error)?;
        Ok(false)
    }

    /// Writes what the socket takes; how much that was.
    fn write(&mut self) -> io::Result<u64> {
        let mut taken = 0;
        while !self.queue.is_empty() {
            let (bytes, _) = self.queue.as_slices();
            match self.socket.write(bytes) {
                Ok(count) => {
                    self.queue.drain(..count);
                    taken += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.input_ended && self.queue.is_empty() && !std::mem::replace(&mut self.is_shut, true)
        {
            self.socket.shutdown(Shutdown::Write)?;
        }
        Ok(taken)
    }

    /// Reads once, as far as it may be sent; nothing at the end.
    fn read<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        let credit = usize::try_from(self.send.available()).unwrap_or(usize::MAX);
        let limit = credit.min(buffer.len());
        match self.socket.read(&mut buffer[..limit]) {
            Ok(count) => {
                self.send.sent(count as u64);
                Ok(Some(&buffer[..count]))
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The addresses to try for a port, the likeliest first.
fn addresses(port: u16) -> VecDeque<SocketAddr> {
    let mut all = VecDeque::from([
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ]);
    for address in listeners::all() {
        if address.port() == port && !address.ip().is_unspecified() && !all.contains(&address) {
            all.push_back(address);
        }
    }
    all
}

/// Begins to connect to the next address; `ECONNREFUSED` if none is left.
fn next_of(addresses: &mut VecDeque<SocketAddr>) -> nix::Result<TcpStream> {
    let mut last = Errno::ECONNREFUSED;
    while let Some(address) = addresses.pop_front() {
        match begin(address) {
            Ok(socket) => return Ok(socket),
            // Ignore a kernel without IPv6.
            Err(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT) => {}
            Err(errno) => last = errno,
        }
    }
    Err(last)
}

fn begin(address: SocketAddr) -> nix::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(family, SockType::Stream, flags, None)?;
    let begun = match address {
        SocketAddr::V4(address) => connect(socket.as_raw_fd(), &SockaddrIn::from(address)),
        SocketAddr::V6(address) => connect(socket.as_raw_fd(), &SockaddrIn6::from(address)),
    };
    match begun {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket.into()),
        Err(errno) => Err(errno),
    }
}

fn refuse(port: u16, errno: Errno) -> Failure {
    refused(errno, format!("cannot reach port {port}: {}", text(errno)))
}

/// Makes closing it send a reset.
fn break_off(socket: &TcpStream) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    if let Err(errno) = setsockopt(socket, sockopt::Linger, &at_once) {
        log::debug!("a connection may linger; error={errno}");
    }
}
