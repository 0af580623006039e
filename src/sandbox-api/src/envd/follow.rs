//! The stream of a process's output to a client.

use std::io::{self, ErrorKind, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::event::Event;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connect_rpc::{Code, Error};
use http_server::{BodyWriter, Response, Wake};
use sandbox::Stream;
use serde_json::{Value, json};

use super::call::stream;
use crate::process::{Ending, Next, Output, Process, Subscription};

/// Sends the output of a process to a client.
pub(super) struct Follower {
    pub(super) subscription: Subscription,
    /// Set when the sandbox is paused or ended.
    pub(super) closed: Arc<Event>,
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
            match self.subscription.try_next() {
                Some(Next::Output(output)) => {
                    send(writer, &json!({"event": {"data": data(process, &output)}}))?;
                    pings.restart();
                    continue;
                }
                // It may have ended with its sandbox.
                Some(Next::Ended(_)) if self.closed.is_set() => return Err(aborted()),
                Some(Next::Ended(ending)) => return self.end(writer, &ending),
                Some(Next::Closed | Next::TimedOut) | None => {}
            }
            let events = [self.subscription.wake(), &self.closed];
            let woken = writer.wait(&events, Some(pings.next(self.leaves_at())))?;
            // The client is to look at the sandbox's state.
            if woken == Wake::Gone || self.closed.is_set() {
                return Err(aborted());
            }
            if self.leaves_at().is_some_and(|time| time <= Instant::now()) {
                return writer.write_all(&connect_rpc::end(Err(&timed_out())));
            }
            // One who reads nothing any more is found out by writing.
            if woken == Wake::HalfClosed || pings.is_due() {
                send(writer, &json!({"event": {"keepalive": {}}}))?;
                pings.restart();
            }
        }
    }

    fn end(&self, writer: &mut BodyWriter<'_>, ending: &Ending) -> io::Result<()> {
        match ending {
            Ending::TimedOut if matches!(self.on_timeout, OnTimeout::Killed) => {
                writer.write_all(&connect_rpc::end(Err(&timed_out())))
            }
            // The client is to look at the sandbox's state.
            Ending::Lost => Err(aborted()),
            ending => {
                send(writer, &json!({"event": {"end": end(ending)}}))?;
                writer.write_all(&connect_rpc::end(Ok(())))
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

    /// When the stream has to do something: ping its client, or leave.
    pub(super) fn next(&self, leaves_at: Option<Instant>) -> Instant {
        leaves_at.map_or(self.due, |time| self.due.min(time))
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

pub(super) fn timed_out() -> Error {
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
