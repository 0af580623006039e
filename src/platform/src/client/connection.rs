//! Connections that another thread can shut down: a Unix socket, TCP, TLS over TCP.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::sync::{Mutex, MutexGuard};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::address::Address;
use crate::{Error, Result, folder};

/// The timeout of each read and write; longer than any long poll.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The timeout of a connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The requests under way.
#[derive(Debug, Default)]
pub(super) struct Calls {
    state: Mutex<CallsState>,
}

#[derive(Debug, Default)]
struct CallsState {
    is_cut: bool,
    open: Vec<Weak<Socket>>,
}

impl Calls {
    /// Shuts down the requests under way, and rejects later ones.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        state.is_cut = true;
        for socket in state.open.drain(..).filter_map(|socket| socket.upgrade()) {
            socket.shut_down();
        }
    }

    pub(super) fn is_cut(&self) -> bool {
        self.lock().is_cut
    }

    fn add(&self, socket: Socket) -> Result<Wire> {
        let socket = Arc::new(socket);
        let mut state = self.lock();
        if state.is_cut {
            return Err(Error::Cut);
        }
        state.open.retain(|socket| socket.strong_count() > 0);
        state.open.push(Arc::downgrade(&socket));
        Ok(Wire(socket))
    }

    fn lock(&self) -> MutexGuard<'_, CallsState> {
        self.state.lock()
    }
}

#[derive(Debug)]
enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    fn set_timeouts(&self) -> io::Result<()> {
        let time = Some(IDLE_TIMEOUT);
        match self {
            Self::Unix(stream) => stream.set_read_timeout(time).and(stream.set_write_timeout(time)),
            Self::Tcp(stream) => stream.set_read_timeout(time).and(stream.set_write_timeout(time)),
        }
    }

    fn shut_down(&self) {
        // `shutdown` fails on a socket that is not connected any more.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// A socket that [`Calls::cut`] can shut down.
pub(super) struct Wire(Arc<Socket>);

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Unix(stream) => (&mut &*stream).read(buffer),
            Socket::Tcp(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Socket::Unix(stream) => (&mut &*stream).write(buffer),
            Socket::Tcp(stream) => (&mut &*stream).write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection to a platform.
pub(super) enum Connection {
    Plain(Wire),
    Tls(Box<StreamOwned<ClientConnection, Wire>>),
}

impl Connection {
    /// Connects to the socket of the platform on this host.
    pub(super) fn to_socket(path: &Path, calls: &Calls) -> Result<Self> {
        let fail = |source| Error::NotServed { path: path.to_owned(), source };
        let stream = folder::at_socket(path, |name| UnixStream::connect(name)).map_err(fail)?;
        let socket = Socket::Unix(stream);
        socket.set_timeouts().map_err(fail)?;
        calls.add(socket).map(Self::Plain)
    }

    /// Connects to an address, and completes the TLS handshake.
    pub(super) fn to_address(
        address: &Address,
        tls: &Arc<ClientConfig>,
        calls: &Calls,
    ) -> Result<Self> {
        let fail = |source| Error::Unreachable { url: address.to_string(), source };
        let socket = Socket::Tcp(connect(address).map_err(fail)?);
        socket.set_timeouts().map_err(fail)?;
        let mut wire = calls.add(socket)?;
        if !address.is_tls {
            return Ok(Self::Plain(wire));
        }
        let fail = |source| Error::TlsHandshake { url: address.to_string(), source };
        let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other);
        let client = ClientConnection::new(Arc::clone(tls), name.map_err(fail)?);
        let mut client = client.map_err(|error| fail(io::Error::other(error)))?;
        // Before anything is sent, so that a failure of TLS is reported as one.
        while client.is_handshaking() {
            client.complete_io(&mut wire).map_err(fail)?;
        }
        Ok(Self::Tls(Box::new(StreamOwned::new(client, wire))))
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(wire) => wire.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(wire) => wire.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(wire) => wire.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

/// Connects to the first IP address of a host that answers.
fn connect(address: &Address) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for ip in (address.host.as_str(), address.port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&ip, CONNECT_TIMEOUT) {
            Ok(stream) => return stream.set_nodelay(true).map(|()| stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
