//! From nothing to a WebSocket that said CONNECTED: the work of a dialling thread, which may wait.
//!
//! 1. **Token**, unless there is a good one.
//! 2. **Name** of the first host, to addresses.
//! 3. **Connection**, and TLS on it.
//! 4. **Upgrade** to a WebSocket, and the server's CONNECTED.
//!
//! If 2 to 4 fail for a reason that another host may not have, they begin again with that.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tungstenite::handshake::derive_accept_key;

use crate::config::Config;
use crate::error::Loss;
use crate::frame::{Action, Frame};
use crate::host::Host;
use crate::http::Answer;
use crate::link::{Link, Received, Resume};
use crate::pipe::{Pipe, trust};
use crate::random;
use crate::secret::Secret;
use crate::signal::Signal;
use crate::socket::{Patience, Socket};
use crate::token::{Token, fetch};

/// Who we are, as servers are told.
pub(crate) const AGENT: &str = concat!("ably-subscriber/", env!("CARGO_PKG_VERSION"));

/// What the request is called in errors.
const WHAT: &str = "a WebSocket";

/// As much of what a server says is repeated.
const LONGEST_REMARK: usize = 500;

/// As many addresses of one host are tried.
const MOST_ADDRESSES: usize = 8;

/// What a dialling thread needs.
pub(crate) struct Dialer {
    pub(crate) config: Arc<Config>,
    /// Ends what waits.
    pub(crate) signal: Arc<Signal>,
}

/// What came of it. A token is worth keeping even if the rest failed.
pub(crate) struct Dialed {
    pub(crate) token: Option<Token>,
    /// How to resume, if that was not of use yet.
    pub(crate) resume: Option<Resume>,
    pub(crate) link: Result<Link, Loss>,
}

impl Dialed {
    /// The thread panicked, which only the callback can make it do.
    pub(crate) fn panicked() -> Self {
        Self { token: None, resume: None, link: Err(Loss::Callback) }
    }
}

impl Dialer {
    /// Makes a connection; one that was lost is resumed by its key.
    pub(crate) fn dial(&self, token: Option<Token>, resume: Option<Resume>) -> Dialed {
        let token = match token.map_or_else(|| fetch(self), Ok) {
            Ok(token) => token,
            Err(loss) => return Dialed { token: None, resume, link: Err(loss) },
        };
        let hosts = self.config.hosts.for_realtime();
        let key = resume.as_ref().map(|resume| &resume.key);
        let link = self.on_each(&hosts, |host| self.open(host, &token, key));
        Dialed { token: Some(token), resume: resume.filter(|_| link.is_err()), link }
    }

    /// Tries the hosts in turn as long as it may be the host's fault.
    pub(crate) fn on_each<T>(
        &self,
        hosts: &[&Host],
        mut attempt: impl FnMut(&Host) -> Result<T, Loss>,
    ) -> Result<T, Loss> {
        let mut first = None;
        for host in hosts {
            match attempt(host) {
                Err(loss) if loss.is_of_host() && !self.signal.is_given() => {
                    log::debug!("a host failed; host={host} error={}", crate::error::chain(&loss));
                    // What is wrong with the usual host says most.
                    first.get_or_insert(loss);
                }
                done => return done,
            }
        }
        Err(first.unwrap_or(Loss::Closed))
    }

    /// A connection to a host, with TLS if it is to have it.
    pub(crate) fn connect(&self, host: &Host) -> Result<(Pipe, Patience), Loss> {
        let addresses = resolve(host)?;
        // The resolver has limits of its own.
        let deadline = Instant::now() + self.config.timing.connect;
        let patience = Patience { signal: Arc::clone(&self.signal), deadline };
        let failed = |source| Loss::Connect { host: host.to_string(), source };
        let socket = connect_to_any(&addresses, &patience).map_err(failed)?;
        if !host.uses_tls() {
            return Ok((Pipe::plain(socket), patience));
        }
        let trust = trust().map_err(|source| Loss::Trust { source })?;
        let failed = |source| Loss::Tls { host: host.to_string(), source };
        Ok((Pipe::tls(socket, &host.name, trust).map_err(failed)?, patience))
    }

    fn open(&self, host: &Host, token: &Token, resume: Option<&Secret>) -> Result<Link, Loss> {
        let (mut pipe, patience) = self.connect(host)?;
        let rest = upgrade(&mut pipe, host, token, resume)?;
        let mut link = Link::new(pipe, rest, &self.config);
        loop {
            // The socket looks at the time only when it has to wait, and a flood never lets it.
            patience.check().map_err(|source| Loss::Socket { source })?;
            let Received::Frame(bytes) = link.receive()? else {
                continue;
            };
            let Some(frame) = Frame::decode(&bytes) else {
                continue;
            };
            match frame.action {
                Action::Connected => {
                    link.accept(&frame);
                    link.lose_patience();
                    return Ok(link);
                }
                Action::Error if frame.channel.is_none() => {
                    return Err(frame.into_refusal(Some(token)));
                }
                Action::Disconnected => return Err(frame.into_disconnection(Some(token))),
                Action::Closed => return Err(Loss::Closed),
                _ => {}
            }
        }
    }
}

/// Each address has its share of the time that is left, so that one that is dead does not use up all.
fn connect_to_any(addresses: &[SocketAddr], patience: &Patience) -> io::Result<Socket> {
    let mut result = Err(io::Error::other("it has no address"));
    let mut left = addresses.len();
    for address in addresses {
        let now = Instant::now();
        let time = patience.deadline.saturating_duration_since(now);
        let share = time / u32::try_from(left).unwrap_or(1);
        left -= 1;
        result = Socket::connect(*address, patience, now + share);
        if result.is_ok() || patience.signal.is_given() {
            break;
        }
    }
    result
}

fn resolve(host: &Host) -> Result<Vec<SocketAddr>, Loss> {
    let failed = |source| Loss::Resolve { host: host.to_string(), source };
    let found = (host.name.as_str(), host.port()).to_socket_addrs().map_err(failed)?;
    Ok(found.take(MOST_ADDRESSES).collect())
}

/// Makes a WebSocket of the connection. What came after the answer's head belongs to it.
fn upgrade(
    pipe: &mut Pipe,
    host: &Host,
    token: &Token,
    resume: Option<&Secret>,
) -> Result<Vec<u8>, Loss> {
    let key = STANDARD.encode(random::bytes::<16>());
    let resume = resume.map(|key| format!("&resume={}", key.expose_encoded())).unwrap_or_default();
    let request = format!(
        "GET /?access_token={}&format=msgpack&v=5&heartbeats=true&echo=false&agent={}{resume} \
         HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n",
        token.secret.expose_encoded(),
        utf8_percent_encode(AGENT, NON_ALPHANUMERIC),
    );
    let failed = |source| Loss::Http { host: host.to_string(), what: WHAT, source };
    let answer = Answer::to(pipe, request.as_bytes()).map_err(failed)?;
    if answer.status != 101 {
        return Err(Loss::Status {
            host: host.to_string(),
            what: WHAT,
            status: answer.status,
            code: answer.header("x-ably-errorcode").and_then(|code| code.parse().ok()).unwrap_or(0),
            message: answer
                .header("x-ably-errormessage")
                .map(|text| shortened(&token.secret.hide_in(text)))
                .unwrap_or_default(),
        });
    }
    let accept = answer.header("sec-websocket-accept");
    if accept != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(failed(io::Error::other("the answer is to another request")));
    }
    Ok(answer.into_rest())
}

/// What a server said, if that is not endless, in one line.
pub(crate) fn shortened(text: &str) -> String {
    text.chars().take(LONGEST_REMARK).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
