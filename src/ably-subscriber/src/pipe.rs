//! A connection, over TLS or not, with room for what the peer does not take yet.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::socket::Socket;

/// A subscriber says little, so this much means that the peer does not read.
const MOST_WAITING: usize = 256 << 10;

/// INVARIANT: whoever writes writes whole frames at once, so two writers do not mix them.
pub(crate) struct Pipe {
    transport: Transport,
    waiting: Vec<u8>,
}

enum Transport {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

/// What a server must show to be believed: a certificate that the system's store vouches for. The
/// store is read anew for each dial, since it may change while a subscription lasts.
pub(crate) fn trust() -> Result<Arc<ClientConfig>, rustls::Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_platform_verifier()?
        .with_no_client_auth();
    Ok(Arc::new(config))
}

impl Pipe {
    pub(crate) fn plain(socket: Socket) -> Self {
        Self::new(Transport::Plain(socket))
    }

    /// Shakes hands with `host`, as patiently as the socket is.
    pub(crate) fn tls(
        mut socket: Socket,
        host: &str,
        trust: Arc<ClientConfig>,
    ) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut connection = ClientConnection::new(trust, name).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        let stream = Box::new(StreamOwned::new(connection, socket));
        Ok(Self::new(Transport::Tls(stream)))
    }

    fn new(transport: Transport) -> Self {
        Self { transport, waiting: Vec::new() }
    }

    /// What is below TLS, or alone.
    pub(crate) fn socket(&self) -> &Socket {
        match &self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => &stream.sock,
        }
    }

    /// See [`Pipe::socket`].
    pub(crate) fn socket_mut(&mut self) -> &mut Socket {
        match &mut self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => &mut stream.sock,
        }
    }

    /// Whether the peer is to take something yet.
    pub(crate) fn wants_write(&self) -> bool {
        let under_way = match &self.transport {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.conn.wants_write(),
        };
        under_way || !self.waiting.is_empty()
    }

    /// Says that nothing more comes, if there is such a word.
    pub(crate) fn end(&mut self) {
        if let Transport::Tls(stream) = &mut self.transport {
            stream.conn.send_close_notify();
        }
        // Who leaves does not wait for the peer.
        let _ = self.flush();
    }

    fn inner(&mut self) -> &mut dyn Write {
        match &mut self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => stream.as_mut(),
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.transport {
            Transport::Plain(socket) => socket.read(buffer),
            Transport::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.waiting.len() + bytes.len() > MOST_WAITING {
            return Err(io::Error::other("the peer does not read"));
        }
        self.waiting.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let waiting = std::mem::take(&mut self.waiting);
            let written = self.inner().write(&waiting);
            self.waiting = waiting;
            let count = written?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.waiting.drain(..count);
        }
        self.inner().flush()
    }
}
