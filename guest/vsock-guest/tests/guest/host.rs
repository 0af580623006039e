//! A scripted host: sends a test's messages and collects the answers.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_bytes::ByteBuf;
use vsock_guest::{Config, End, Service, serve};
use vsock_proto::{
    BootId, Decoder, Entry, Exec, Exit, Failure, GuestBody, GuestMessage, Hello, HostBody,
    HostMessage, RequestId, Stream, encode,
};

/// The time-out of a wait for a message.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) struct Host {
    pub(crate) stream: UnixStream,
    decoder: Decoder,
    last_id: u64,
    serving: JoinHandle<vsock_guest::Result<End>>,
}

/// A guest's answer, with owned bytes.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    Ready,
    Started(u32),
    Data(Stream, Vec<u8>),
    Entry(Entry),
    Credit(u64),
    Exit(Exit),
    Ended(Exit),
    Done,
    Failed(Failure),
    Connected,
    End,
    Listening(Vec<u16>),
}

/// A command's complete output, and its exit.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Option<Exit>,
}

pub(crate) fn config() -> Config {
    Config {
        boot_id: BootId([7; 16]),
        previous_failure: None,
        cgroups: None,
        root: PathBuf::from("/"),
        owns_kernel: false,
        secret: None,
    }
}

pub(crate) fn argv(words: &[&str]) -> Vec<ByteBuf> {
    words.iter().map(|word| ByteBuf::from(*word)).collect()
}

pub(crate) fn shell(script: &str) -> Exec {
    Exec { argv: argv(&["/bin/sh", "-c", script]), ..Exec::default() }
}

impl Host {
    /// A guest that waits for the answer to its hello.
    pub(crate) fn dialled(config: Config) -> (Self, Hello) {
        let (stream, theirs) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let serving = thread::Builder::new()
            .name("guest".into())
            .spawn(move || serve(OwnedFd::from(theirs), &mut Service::new(config)))
            .unwrap();
        let mut host = Self { stream, decoder: Decoder::new(), last_id: 0, serving };
        let hello = loop {
            host.fill();
            if let Some(hello) = Hello::decode(&mut host.decoder).unwrap() {
                break hello;
            }
        };
        (host, hello)
    }

    /// A guest after the handshake.
    pub(crate) fn connected() -> Self {
        Self::connected_with(config())
    }

    pub(crate) fn connected_with(config: Config) -> Self {
        let (mut host, _) = Self::dialled(config);
        host.send(RequestId::LINK, HostBody::Welcome(None));
        assert_eq!(host.answer(), (RequestId::LINK, Answer::Ready));
        host
    }

    pub(crate) fn send(&mut self, id: RequestId, body: HostBody<'_>) {
        let mut frame = Vec::new();
        encode(&HostMessage { id, body }, &mut frame).unwrap();
        self.stream.write_all(&frame).unwrap();
    }

    pub(crate) fn request(&mut self, body: HostBody<'_>) -> RequestId {
        self.last_id += 1;
        let id = RequestId(self.last_id);
        self.send(id, body);
        id
    }

    /// The next message of any request.
    pub(crate) fn answer(&mut self) -> (RequestId, Answer) {
        loop {
            if let Some(GuestMessage { id, body }) = self.decoder.next().unwrap() {
                return (id, own(body));
            }
            self.fill();
        }
    }

    /// The next message, which must be about request `id`.
    pub(crate) fn answer_to(&mut self, id: RequestId) -> Answer {
        let (about, answer) = self.answer();
        assert_eq!(about, id, "unexpected {answer:?}");
        answer
    }

    /// Whether no message arrives within `time`.
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).unwrap();
        let silent = self.stream.read(self.decoder.space()).is_err();
        self.stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        silent
    }

    pub(crate) fn ping(&mut self) {
        let id = self.request(HostBody::Ping);
        assert_eq!(self.answer_to(id), Answer::Done);
    }

    /// Runs a command to its end, granting credit for each byte received.
    pub(crate) fn run(&mut self, exec: Exec) -> Run {
        let id = self.request(HostBody::Exec(exec));
        self.finish(id)
    }

    /// Receives the rest of a command's output, and its exit.
    pub(crate) fn finish(&mut self, id: RequestId) -> Run {
        let mut run = Run::default();
        loop {
            match self.answer_to(id) {
                Answer::Started(_) | Answer::Credit(_) => {}
                Answer::Data(stream, bytes) => {
                    self.send(id, HostBody::Credit(stream, bytes.len() as u64));
                    match stream {
                        Stream::Stdout => run.stdout.extend(bytes),
                        Stream::Stderr => run.stderr.extend(bytes),
                    }
                }
                Answer::Exit(exit) => {
                    run.exit = Some(exit);
                    return run;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// Closes the connection; returns the guest's result.
    pub(crate) fn close(self) -> vsock_guest::Result<End> {
        drop(self.stream);
        self.serving.join().unwrap()
    }

    /// Waits for the guest's end; returns its result.
    pub(crate) fn end(self) -> vsock_guest::Result<End> {
        self.serving.join().unwrap()
    }

    fn fill(&mut self) {
        let count = self.stream.read(self.decoder.space()).unwrap();
        assert!(count > 0, "the guest hung up");
        self.decoder.filled(count);
    }
}

fn own(body: GuestBody<'_>) -> Answer {
    match body {
        GuestBody::Ready(_) => Answer::Ready,
        GuestBody::Started(pid) => Answer::Started(pid),
        GuestBody::Data(stream, bytes) => Answer::Data(stream, bytes.to_vec()),
        GuestBody::Entry(entry) => Answer::Entry(entry),
        GuestBody::Credit(count) => Answer::Credit(count),
        GuestBody::Exit(exit) => Answer::Exit(exit),
        GuestBody::Ended(exit) => Answer::Ended(exit),
        GuestBody::Done => Answer::Done,
        GuestBody::Failed(failure) => Answer::Failed(failure),
        GuestBody::Connected => Answer::Connected,
        GuestBody::End => Answer::End,
        GuestBody::Listening(listening) => Answer::Listening(listening.ports),
    }
}
