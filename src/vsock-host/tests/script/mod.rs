//! A scripted guest, on the other end of a socket.

#![allow(dead_code, reason = "each test file uses its part of it")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_bytes::ByteBuf;
use vsock_host::{Guest, Reactor};
use vsock_proto::{
    BootId, Decoder, Exec, Exit, GuestBody, GuestMessage, Hello, HostBody, HostMessage, LinkSecret,
    Outcome, Ready, RequestId, Stream, StreamTotal, VERSION, encode,
};

pub(crate) const BOOT: BootId = BootId([7; 16]);

/// A deadline for events that must happen.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A deadline for events that must not happen.
pub(crate) fn shortly() -> Instant {
    Instant::now() + Duration::from_millis(50)
}

/// The guest's end. Its reads and writes time out after ten seconds.
pub(crate) struct Script {
    stream: UnixStream,
    /// The secret in its next hello, from the last welcome.
    pub(crate) secret: Option<LinkSecret>,
}

impl Script {
    pub(crate) fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        Self { stream, secret: None }
    }

    pub(crate) fn dial(path: &Path) -> Self {
        Self::new(UnixStream::connect(path).unwrap())
    }

    /// Dials with the secret of `before`, as the same service would.
    pub(crate) fn dial_again(path: &Path, before: &Self) -> Self {
        Self { secret: before.secret, ..Self::dial(path) }
    }

    /// Completes the handshake.
    pub(crate) fn greet(&mut self) {
        self.hello(VERSION);
        self.secret = self.expect(|_, body| match body {
            HostBody::Welcome(secret) => secret,
            other => panic!("no welcome: {other:?}"),
        });
        self.send(RequestId::LINK, GuestBody::Ready(ready()));
    }

    /// Completes the handshake in a thread, which returns the script.
    pub(crate) fn greet_in_background(mut self) -> thread::JoinHandle<Self> {
        let greet = move || {
            self.greet();
            self
        };
        thread::Builder::new().name("script".into()).spawn(greet).unwrap()
    }

    pub(crate) fn hello(&mut self, version: u32) {
        let previous_failure = Some("it had a bad day".into());
        let hello = Hello { version, boot_id: BOOT, previous_failure, secret: self.secret };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes).unwrap();
        self.raw(&bytes);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn send(&mut self, id: RequestId, body: GuestBody<'_>) {
        self.try_send(id, body).unwrap();
    }

    pub(crate) fn try_send(&mut self, id: RequestId, body: GuestBody<'_>) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(&GuestMessage { id, body }, &mut bytes).unwrap();
        self.stream.write_all(&bytes)
    }

    /// Receives the host's next message.
    pub(crate) fn expect<R>(&mut self, look: impl FnOnce(RequestId, HostBody<'_>) -> R) -> R {
        self.next(look).expect("the host closed the connection")
    }

    /// Receives the host's next message; `None` if the host closes.
    pub(crate) fn next<R>(&mut self, look: impl FnOnce(RequestId, HostBody<'_>) -> R) -> Option<R> {
        let mut frame = [0; 4].to_vec();
        match self.stream.read_exact(&mut frame) {
            Ok(()) => {}
            Err(error) if is_closed(&error) => return None,
            Err(error) => panic!("no message from the host: {error}"),
        }
        let length = u32::from_le_bytes(frame[..4].try_into().unwrap());
        frame.resize(4 + length as usize, 0);
        self.stream.read_exact(&mut frame[4..]).unwrap();
        let mut decoder = Decoder::new();
        decoder.push(&frame);
        let HostMessage { id, body } = decoder.next().unwrap().unwrap();
        Some(look(id, body))
    }

    /// Receives a request of any kind; returns its id.
    pub(crate) fn request(&mut self) -> RequestId {
        self.expect(|id, body| {
            assert!(body.is_request(), "{body:?}");
            id
        })
    }

    /// Receives a command and reports its start; returns its id.
    pub(crate) fn start_command(&mut self) -> RequestId {
        let id = self.request();
        self.send(id, GuestBody::Started(42));
        id
    }

    /// Discards messages until the host closes.
    pub(crate) fn wait_closed(&mut self) {
        while self.next(|_, _| ()).is_some() {}
    }

    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)
}

/// A guest whose peer runs `play` after the handshake.
pub(crate) fn guest(
    reactor: &Reactor,
    play: impl FnOnce(Script) + Send + 'static,
) -> (Guest, thread::JoinHandle<()>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let body = move || {
        let mut script = Script::new(theirs);
        script.greet();
        play(script);
    };
    let thread = thread::Builder::new().name("script".into()).spawn(body).unwrap();
    (reactor.adopt(ours, soon()).unwrap(), thread)
}

pub(crate) fn ready() -> Ready {
    Ready { kernel: "6.1.0-script".into(), uptime_us: 1 }
}

pub(crate) fn command(program: &str) -> Exec {
    Exec { argv: vec![ByteBuf::from(program)], stdin: true, ..Exec::default() }
}

pub(crate) fn exit(code: u8) -> Exit {
    let total = StreamTotal::default();
    let outcome = Outcome::Exited { code };
    Exit { outcome, stdout: total, stderr: total, duration_us: 1, oom_kills: 0 }
}

pub(crate) fn stdout(bytes: &[u8]) -> GuestBody<'_> {
    GuestBody::Data(Stream::Stdout, bytes)
}
