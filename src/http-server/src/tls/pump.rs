//! The thread that moves bytes between a TLS connection and the connection's thread.
//!
//! Neither direction buffers more than a record: the client is read only when the plain end has taken
//! everything, and the plain end only when the client has. Idle, a connection has no buffers of ours.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::deadline::{after, poll_timeout};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv};
use rustls::{ServerConfig, ServerConnection};

use crate::socket::Socket;

/// The most plaintext of a TLS record.
const RECORD: usize = 16 * 1024;

/// For how long the client may leave what was sent to it unread, a record or two.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The reply to a client that speaks HTTP without TLS.
const PLAIN: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 35\r\n\
      Connection: close\r\n\r\nthis port speaks TLS: use https://\n";

/// An accepted connection that is to be encrypted.
pub(crate) struct Encrypted {
    pub(crate) config: Arc<ServerConfig>,
    /// The client.
    pub(crate) tcp: Socket,
    /// The pump's end of the socket pair.
    pub(crate) plain: Socket,
}

impl Encrypted {
    /// Returns the connection, and the end of the socket pair that the HTTP code serves.
    pub(crate) fn new(tcp: Socket, config: Arc<ServerConfig>) -> io::Result<(Self, Socket)> {
        let (plain, served) = UnixStream::pair()?;
        Ok((Self { config, tcp, plain: Socket::new(plain) }, Socket::new(served)))
    }
}

/// The running thread of a connection. Dropping it ends the connection and waits for the thread.
pub(crate) struct Pump {
    served: Socket,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Starts the thread. `served` is the other end of `connection.plain`.
    pub(crate) fn start(
        (server, id): (&str, u64),
        connection: Encrypted,
        served: Socket,
        handshake: Duration,
    ) -> io::Result<Self> {
        const STACK: usize = 256 * 1024;
        let deadline = after(Instant::now(), handshake);
        let run = move || {
            if let Err(error) = run(&connection, deadline) {
                log::debug!("a TLS connection failed; error={error}");
            }
            // The connection's thread may still read what has come.
            connection.plain.shutdown(Shutdown::Both);
            if !connection.tcp.resets_at_close() {
                connection.tcp.shutdown(Shutdown::Both);
            }
        };
        let thread = base::thread::spawn_with_stack(format!("{server}-tls-{id}"), STACK, run)?;
        Ok(Self { served, thread: Some(thread) })
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.served.shutdown(Shutdown::Both);
        self.thread.take().and_then(base::thread::join);
    }
}

fn run(connection: &Encrypted, handshake: Instant) -> io::Result<()> {
    let Encrypted { config, tcp, plain } = connection;
    tcp.set_nonblocking(true)?;
    plain.set_nonblocking(true)?;
    let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut session = Session {
        tls,
        tcp,
        plain,
        handshake,
        pending: Vec::new(),
        unsent_since: None,
        client_ended: false,
        server_ended: false,
        server_is_gone: false,
    };
    session.wait()?;
    if speaks_plain_http(tcp) {
        let _ = (&mut &*tcp).write_all(PLAIN);
        let _ = (&mut &*tcp).read(&mut [0; 4096]);
        return Ok(());
    }
    while session.advance()? {
        session.wait()?;
    }
    Ok(())
}

fn speaks_plain_http(tcp: &Socket) -> bool {
    let mut first = [0];
    let peeked = recv(tcp.as_fd().as_raw_fd(), &mut first, MsgFlags::MSG_PEEK);
    // A TLS handshake begins with 22.
    matches!(peeked, Ok(1)) && first[0].is_ascii_uppercase()
}

struct Session<'a> {
    tls: ServerConnection,
    tcp: &'a Socket,
    plain: &'a Socket,
    /// When the handshake must be over.
    handshake: Instant,
    /// Decrypted bytes that the server has not taken.
    pending: Vec<u8>,
    /// Since when the client has not taken all that was encrypted.
    unsent_since: Option<Instant>,
    /// The client sends nothing more.
    client_ended: bool,
    /// The server writes nothing more.
    server_ended: bool,
    /// The server has closed its end, so that it reads nothing more either.
    server_is_gone: bool,
}

impl Session<'_> {
    fn reads_client(&self) -> bool {
        !self.client_ended && !self.server_is_gone && self.pending.is_empty()
    }

    fn reads_server(&self) -> bool {
        !self.server_ended && !self.tls.is_handshaking() && !self.tls.wants_write()
    }

    fn deadline(&self) -> Option<Instant> {
        let unsent = self.unsent_since.map(|since| since + WRITE_TIMEOUT);
        let handshake = self.tls.is_handshaking().then_some(self.handshake);
        unsent.into_iter().chain(handshake).min()
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> io::Result<()> {
        let flag = |wanted: bool, flag: PollFlags| if wanted { flag } else { PollFlags::empty() };
        let tcp = flag(self.reads_client(), PollFlags::POLLIN)
            | flag(self.tls.wants_write(), PollFlags::POLLOUT);
        let plain = flag(self.reads_server(), PollFlags::POLLIN)
            | flag(!self.pending.is_empty(), PollFlags::POLLOUT);
        // A closed end is always reported; one that is known to be closed is not waited for.
        let tcp = PollFd::new(self.tcp.as_fd(), tcp);
        let plain_fd = PollFd::new(self.plain.as_fd(), plain);
        let mut both = [tcp, plain_fd];
        let fds = if self.server_is_gone { &mut both[..1] } else { &mut both[..] };
        let timeout = self.deadline().map_or(PollTimeout::NONE, poll_timeout);
        match poll(fds, timeout) {
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => {
                let closed = PollFlags::POLLHUP | PollFlags::POLLERR;
                let is_closed =
                    |fd: &PollFd<'_>| fd.revents().is_some_and(|r| r.intersects(closed));
                self.server_is_gone |= is_closed(&both[1]);
                if is_closed(&both[0]) && !self.reads_client() {
                    return Err(ErrorKind::ConnectionReset.into());
                }
            }
            Err(errno) => return Err(errno.into()),
        }
        match self.deadline() {
            Some(deadline) if deadline <= Instant::now() => Err(ErrorKind::TimedOut.into()),
            _ => Ok(()),
        }
    }

    /// Moves what can be moved; `false` at the end.
    fn advance(&mut self) -> io::Result<bool> {
        // The other direction gets its turn after so many reads.
        for _ in 0..16 {
            self.flush_pending();
            if !self.reads_client() || !self.read_client()? {
                break;
            }
        }
        self.flush_pending();
        loop {
            self.write_client()?;
            if !self.reads_server() || !self.read_server()? {
                break;
            }
        }
        let is_flushed = !self.tls.wants_write();
        let reads_no_more = self.server_ended || self.server_is_gone && !is_flushed;
        if reads_no_more && self.tcp.resets_at_close() {
            return Err(io::Error::other("the reply failed"));
        }
        if self.server_ended && is_flushed {
            self.tcp.shutdown(Shutdown::Write);
        }
        if self.client_ended && self.pending.is_empty() {
            self.plain.shutdown(Shutdown::Write);
        }
        let is_over = self.server_ended && (self.server_is_gone || self.client_ended);
        let is_useless = self.server_is_gone && self.tls.is_handshaking();
        Ok(!(is_over && is_flushed || is_useless))
    }

    /// Decrypts what the client has sent; `false` if there is nothing.
    fn read_client(&mut self) -> io::Result<bool> {
        match self.tls.read_tls(&mut &*self.tcp) {
            Ok(0) => self.client_ended = true,
            Ok(_) => {}
            Err(error) if is_early(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        let state = match self.tls.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                // The alert tells the client what was wrong.
                let _ = self.tls.write_tls(&mut &*self.tcp);
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        };
        self.client_ended |= state.peer_has_closed();
        let count = state.plaintext_bytes_to_read();
        if count > 0 {
            let mut bytes = vec![0; count];
            self.tls.reader().read_exact(&mut bytes)?;
            self.pending = bytes;
        }
        Ok(true)
    }

    /// Gives the server what it takes.
    fn flush_pending(&mut self) {
        while !self.pending.is_empty() {
            match (&mut &*self.plain).write(&self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(error) if is_early(&error) => return,
                Err(_) => {
                    // The server does not read any more.
                    self.pending = Vec::new();
                    self.client_ended = true;
                }
            }
        }
        self.pending = Vec::new();
    }

    /// Encrypts what the server has written; `false` if there is nothing.
    fn read_server(&mut self) -> io::Result<bool> {
        let mut buffer = vec![0; RECORD];
        match (&mut &*self.plain).read(&mut buffer) {
            Ok(0) => {
                self.server_ended = true;
                if !self.tcp.resets_at_close() {
                    self.tls.send_close_notify();
                }
            }
            Ok(count) => {
                self.tls.writer().write_all(buffer.get(..count).unwrap_or_default())?;
            }
            Err(error) if is_early(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Sends what the client takes.
    fn write_client(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut &*self.tcp) {
                Ok(_) => {}
                Err(error) if is_early(&error) => {
                    self.unsent_since.get_or_insert_with(Instant::now);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        self.unsent_since = None;
        Ok(())
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
