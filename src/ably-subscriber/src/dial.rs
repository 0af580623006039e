//! Dials: from a token to a WebSocket that has received CONNECTED. Blocks; runs in a background task.
//!
//! 1. **Token**, unless there is a good one.
//! 2. **Name** of the first host, to addresses.
//! 3. **Connection**, and TLS on it.
//! 4. **Upgrade** to a WebSocket, and the server's CONNECTED.
//!
//! If 2 to 4 fail for a reason that may be the host's, they are repeated with the next host.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tungstenite::handshake::derive_accept_key;

use crate::config::Config;
use crate::error::{ConnectionError, shortened};
use crate::frame::{Action, Frame};
use crate::host::Host;
use crate::http::Response;
use crate::link::{Link, Received, Resume};
use crate::pipe::{Pipe, trust};
use crate::random;
use crate::secret::Secret;
use crate::signal::Signal;
use crate::socket::{Socket, WaitLimit};
use crate::token::{Token, fetch};

/// The agent's name that is sent to servers.
pub(crate) const AGENT: &str = concat!("ably-subscriber/", env!("CARGO_PKG_VERSION"));

/// The name of the request in errors.
const WHAT: &str = "a WebSocket";

/// The most addresses of one host that are tried.
const MAX_ADDRESSES: usize = 8;

/// What a dialling thread needs.
pub(crate) struct Dialer {
    pub(crate) config: Arc<Config>,
    /// Stops blocking calls.
    pub(crate) signal: Arc<Signal>,
}

/// The result of dialling. The token is kept even if the connection failed.
pub(crate) struct DialResult {
    pub(crate) token: Option<Token>,
    /// How to resume, if that was not used yet.
    pub(crate) resume: Option<Resume>,
    pub(crate) link: Result<Link, ConnectionError>,
}

impl DialResult {
    /// The result after a panic of the callback.
    pub(crate) fn panicked() -> Self {
        Self { token: None, resume: None, link: Err(ConnectionError::Callback) }
    }
}

impl Dialer {
    /// Connects; resumes a lost connection by its key.
    pub(crate) fn dial(&self, token: Option<Token>, resume: Option<Resume>) -> DialResult {
        let token = match token.map_or_else(|| fetch(self), Ok) {
            Ok(token) => token,
            Err(loss) => return DialResult { token: None, resume, link: Err(loss) },
        };
        let hosts = self.config.hosts.for_realtime();
        let key = resume.as_ref().map(|resume| &resume.key);
        let link = self.on_each(&hosts, |host| self.open(host, &token, key));
        DialResult { token: Some(token), resume: resume.filter(|_| link.is_err()), link }
    }

    /// Tries the hosts in turn while the error may be the host's.
    pub(crate) fn on_each<T>(
        &self,
        hosts: &[&Host],
        mut attempt: impl FnMut(&Host) -> Result<T, ConnectionError>,
    ) -> Result<T, ConnectionError> {
        let mut first = None;
        for host in hosts {
            match attempt(host) {
                Err(loss) if loss.is_of_host() && !self.signal.is_stopped() => {
                    log::debug!("a host failed; host={host} error={}", crate::error::chain(&loss));
                    // The error of the first host says most.
                    first.get_or_insert(loss);
                }
                done => return done,
            }
        }
        Err(first.unwrap_or(ConnectionError::Closed))
    }

    /// Connects to a host, with TLS unless it is this machine.
    pub(crate) fn connect(&self, host: &Host) -> Result<(Pipe, WaitLimit), ConnectionError> {
        let addresses = resolve(host)?;
        // The resolver has time-outs of its own.
        let deadline = Instant::now() + self.config.timing.connect;
        let limit = WaitLimit { signal: Arc::clone(&self.signal), deadline };
        let failed = |source| ConnectionError::Connect { host: host.to_string(), source };
        let socket = connect_to_any(&addresses, &limit).map_err(failed)?;
        if !host.uses_tls() {
            return Ok((Pipe::plain(socket), limit));
        }
        let trust = trust().map_err(|source| ConnectionError::Trust { source })?;
        let failed = |source| ConnectionError::Tls { host: host.to_string(), source };
        Ok((Pipe::tls(socket, &host.name, trust).map_err(failed)?, limit))
    }

    fn open(
        &self,
        host: &Host,
        token: &Token,
        resume: Option<&Secret>,
    ) -> Result<Link, ConnectionError> {
        let (mut pipe, limit) = self.connect(host)?;
        let rest = upgrade(&mut pipe, host, token, resume)?;
        let mut link = Link::new(pipe, rest, &self.config);
        loop {
            // The socket checks the deadline only before it blocks, which a flood prevents.
            limit.check().map_err(|source| ConnectionError::Socket { source })?;
            let Received::Frame(bytes) = link.receive()? else {
                continue;
            };
            let Some(frame) = Frame::decode(&bytes) else {
                continue;
            };
            match frame.action {
                Action::Connected => {
                    link.accept(&frame);
                    link.set_nonblocking();
                    return Ok(link);
                }
                Action::Error if frame.channel.is_none() => {
                    return Err(frame.into_refusal(&[token]));
                }
                Action::Disconnected => return Err(frame.into_disconnection(&[token])),
                Action::Closed => return Err(ConnectionError::Closed),
                _ => {}
            }
        }
    }
}

/// Divides the remaining time among the addresses, so that a dead one does not use up all.
fn connect_to_any(addresses: &[SocketAddr], limit: &WaitLimit) -> io::Result<Socket> {
    let mut result = Err(io::Error::other("it has no address"));
    let mut left = addresses.len();
    for address in addresses {
        let now = Instant::now();
        let time = limit.deadline.saturating_duration_since(now);
        let share = time / u32::try_from(left).unwrap_or(1);
        left -= 1;
        result = Socket::connect(*address, limit, now + share);
        if result.is_ok() || limit.signal.is_stopped() {
            break;
        }
    }
    result
}

fn resolve(host: &Host) -> Result<Vec<SocketAddr>, ConnectionError> {
    let failed = |source| ConnectionError::Resolve { host: host.to_string(), source };
    let found = (host.name.as_str(), host.port()).to_socket_addrs().map_err(failed)?;
    Ok(found.take(MAX_ADDRESSES).collect())
}

/// Upgrades the connection to a WebSocket; returns the bytes after the response's head.
fn upgrade(
    pipe: &mut Pipe,
    host: &Host,
    token: &Token,
    resume: Option<&Secret>,
) -> Result<Vec<u8>, ConnectionError> {
    let key = STANDARD.encode(random::bytes::<16>());
    let resume = resume.map(|key| format!("&resume={}", key.expose_encoded())).unwrap_or_default();
    let request = format!(
        "GET /?access_token={}&format=msgpack&v=5&heartbeats=true&echo=false&agent={}{resume} \
         HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n",
        token.secret.expose_encoded(),
        utf8_percent_encode(AGENT, NON_ALPHANUMERIC),
    );
    let failed = |source| ConnectionError::Http { host: host.to_string(), what: WHAT, source };
    let answer = Response::to(pipe, request.as_bytes()).map_err(failed)?;
    if answer.status != 101 {
        return Err(ConnectionError::Status {
            host: host.to_string(),
            what: WHAT,
            status: answer.status,
            code: answer.header("x-ably-errorcode").and_then(|code| code.parse().ok()).unwrap_or(0),
            message: answer
                .header("x-ably-errormessage")
                .map(|text| shortened(&token.secret.redact(text)))
                .unwrap_or_default(),
        });
    }
    let accept = answer.header("sec-websocket-accept");
    if accept != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(failed(io::Error::other("the answer is to another request")));
    }
    Ok(answer.into_rest())
}
