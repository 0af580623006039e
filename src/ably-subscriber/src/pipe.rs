//! A connection with or without TLS, and with a buffer for unsent bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_platform_verifier::BuilderVerifierExt as _;

use crate::socket::Socket;

/// The largest write buffer. A subscriber sends little: a full buffer means that the peer does not read.
const MAX_UNSENT: usize = 256 << 10;

/// INVARIANT: each write is a whole frame, so frames of two writers do not mix.
pub(crate) struct Pipe {
    transport: Transport,
    unsent: Vec<u8>,
}

enum Transport {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

/// The TLS configuration: certificates are verified with the system's store, which is read for each dial,
/// as it may change during a subscription.
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

    /// Performs the TLS handshake with `host`, within the socket's limit.
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
        Self { transport, unsent: Vec::new() }
    }

    /// The TCP socket.
    pub(crate) fn socket(&self) -> &Socket {
        match &self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => &stream.sock,
        }
    }

    /// The TCP socket, to be changed.
    pub(crate) fn socket_mut(&mut self) -> &mut Socket {
        match &mut self.transport {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => &mut stream.sock,
        }
    }

    /// Whether there are unsent bytes.
    pub(crate) fn wants_write(&self) -> bool {
        let has_tls_bytes = match &self.transport {
            Transport::Plain(_) => false,
            Transport::Tls(stream) => stream.conn.wants_write(),
        };
        has_tls_bytes || !self.unsent.is_empty()
    }

    /// Sends TLS's close_notify, if the connection uses TLS.
    pub(crate) fn end(&mut self) {
        if let Transport::Tls(stream) = &mut self.transport {
            stream.conn.send_close_notify();
        }
        // The connection is closed anyway.
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
        if self.unsent.len() + bytes.len() > MAX_UNSENT {
            return Err(io::Error::other("the peer does not read"));
        }
        self.unsent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            let unsent = std::mem::take(&mut self.unsent);
            let written = self.inner().write(&unsent);
            self.unsent = unsent;
            let count = written?;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.unsent.drain(..count);
        }
        self.inner().flush()
    }
}
