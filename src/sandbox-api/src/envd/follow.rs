//! The stream of a process's output to a client.

use std::convert::Infallible;
use std::io::{self, ErrorKind, Write as _};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connect_rpc::{Code, Error};
use crossbeam_channel::Receiver;
use http_server::{BodyWriter, Response};
use sandbox::Stream;
use serde_json::{Value, json};

use super::call::stream;
use crate::process::{Ending, Next, Output, Process, Subscription};

/// How often a silent stream looks whether its client is there.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// Sends the output of a process to a client.
pub(super) struct Follower {
    pub(super) subscription: Subscription,
    /// Disconnects when the sandbox is paused or ended.
    pub(super) closed: Receiver<Infallible>,
    pub(super) ping: Duration,
    pub(super) on_timeout: OnTimeout,
}

/// What the client's time-out does.
pub(super) enum OnTimeout {
    /// The sandbox kills the process.
    Killed,
    /// The client leaves the process then.
    LeftAt(Instant),
}

impl Follower {
    pub(super) fn response(self) -> Response {
        stream(move |writer| self.run(writer))
    }

    fn run(self, writer: &mut BodyWriter<'_>) -> io::Result<()> {
        let process = self.subscription.process();
        send(writer, &json!({"event": {"start": {"pid": process.pid()}}}))?;
        let mut pings = Pings::new(self.ping);
        loop {
            match self.subscription.next(&self.closed, pings.next(self.leaves_at())) {
                Next::Output(output) => {
                    send(writer, &json!({"event": {"data": data(process, &output)}}))?;
                    pings.restart();
                }
                Next::Ended(Ending::TimedOut) if matches!(self.on_timeout, OnTimeout::Killed) => {
                    return writer.write_all(&connect_rpc::end(Err(&timed_out())));
                }
                // The client is to look at the sandbox's state.
                Next::Ended(Ending::Lost) | Next::Closed => return Err(aborted()),
                Next::Ended(ending) => {
                    send(writer, &json!({"event": {"end": end(&ending)}}))?;
                    return writer.write_all(&connect_rpc::end(Ok(())));
                }
                Next::TimedOut => {
                    if writer.peer_has_closed() {
                        return Err(aborted());
                    }
                    if self.leaves_at().is_some_and(|time| time <= Instant::now()) {
                        return writer.write_all(&connect_rpc::end(Err(&timed_out())));
                    }
                    if pings.is_due() {
                        send(writer, &json!({"event": {"keepalive": {}}}))?;
                        pings.restart();
                    }
                }
            }
        }
    }

    fn leaves_at(&self) -> Option<Instant> {
        match self.on_timeout {
            OnTimeout::LeftAt(time) => Some(time),
            OnTimeout::Killed => None,
        }
    }
}

/// When a silent stream says that it lives.
pub(super) struct Pings {
    interval: Duration,
    due: Instant,
}

impl Pings {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, due: Instant::now() + interval }
    }

    pub(super) fn restart(&mut self) {
        self.due = Instant::now() + self.interval;
    }

    pub(super) fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    /// When the stream has to do something: look at its client, ping it, or leave.
    pub(super) fn next(&self, leaves_at: Option<Instant>) -> Instant {
        let next = self.due.min(Instant::now() + LOOK);
        leaves_at.map_or(next, |time| next.min(time))
    }
}

/// Sends a message at once.
pub(super) fn send(writer: &mut BodyWriter<'_>, message: &Value) -> io::Result<()> {
    writer.write_all(&connect_rpc::message(message)?)
}

/// Closes the connection without the last message.
pub(super) fn aborted() -> io::Error {
    ErrorKind::ConnectionAborted.into()
}

fn timed_out() -> Error {
    Error::new(Code::DeadlineExceeded, "the time of the call is over")
}

fn data(process: &Process, output: &Output) -> Value {
    let bytes = STANDARD.encode(&output.bytes);
    match output.stream {
        _ if process.has_terminal() => json!({"pty": bytes}),
        Stream::Stdout => json!({"stdout": bytes}),
        Stream::Stderr => json!({"stderr": bytes}),
    }
}

fn end(ending: &Ending) -> Value {
    let (code, status) = (ending.code(), ending.status());
    let mut end = json!({"exitCode": code, "exited": ending.has_exited(), "status": status});
    if code != 0 {
        end["error"] = json!(status);
    }
    end
}
