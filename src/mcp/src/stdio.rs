//! The transport over standard input and output: a message on each line.
//!
//! ```text
//!   input ─▶ serve() ─▶ pool ─▶ mcp-<n>: calls     mcp-out ─▶ output
//!               └────────────────────┴─────────────────┘
//! ```
//!
//! What takes no time is answered by `serve` itself, so a ping or a cancellation never waits for a call.
//! The end of the input, or of the output, ends all.

mod line;
mod pool;
#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use base::event::Event;
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sandbox_api::Caller;
use serde_json::Value;

use self::line::{Line, Lines};
use self::pool::Pool;
use crate::call::Sink;
use crate::message::{self, RpcError};
use crate::server::{Server, Step};
use crate::session::Session;

/// How many messages wait for a slow client before calls wait, too.
const WAITING: usize = 64;

/// The size of one read.
const PIECE: usize = 64 << 10;

/// Serves one client until its end, or until `stop` is set, and then ends all sandboxes. `stop` is set at the
/// end in any case: an `output` that blocks has to fail then.
pub fn serve(
    server: Server,
    input: impl Read + AsFd,
    output: impl Write + Send + 'static,
    stop: &Arc<Event>,
) -> io::Result<()> {
    let server = Arc::new(server);
    let (replies, waiting) = bounded(WAITING);
    let writer = {
        let stop = Arc::clone(stop);
        base::thread::spawn("mcp-out", move || write(output, &waiting, &stop))?
    };
    let session = Session::new(Caller::local(), pool::MOST_CALLS);
    let pool = Pool::new(Arc::clone(&server), replies.clone());
    let mut connection = Connection { server: &server, session: &session, replies: &replies, pool };
    let received = connection.receive(input, stop);
    stop.set();
    session.close();
    server.stop();
    connection.pool.stop();
    end(replies, writer);
    received
}

/// Lets the thread write what is left, as far as the client takes it.
fn end(replies: Sender<Value>, writer: JoinHandle<()>) {
    drop(replies);
    base::thread::join(writer);
}

struct Connection<'a> {
    server: &'a Server,
    session: &'a Arc<Session>,
    replies: &'a Sender<Value>,
    pool: Pool,
}

impl Connection<'_> {
    fn receive(&mut self, mut input: impl Read + AsFd, stop: &Event) -> io::Result<()> {
        let mut lines = Lines::default();
        let mut piece = vec![0; PIECE];
        loop {
            if !wait(&input, stop)? {
                return Ok(());
            }
            let count = match input.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if is_early(&error) => continue,
                Err(error) => return Err(error),
            };
            lines.push(piece.get(..count).unwrap_or_default(), |line| self.answer(line));
        }
    }

    fn answer(&mut self, line: Line<'_>) {
        let parsed = match line {
            Line::TooLong => {
                let text = format!("the message has over {} bytes", line::LONGEST);
                let error = RpcError::invalid_request(text);
                return self.reply(message::failure(None, &error));
            }
            Line::Whole(bytes) => message::parse(bytes),
        };
        let step = match parsed {
            Ok(message) => self.server.receive(self.session, message),
            Err(bad) => Step::Reply(message::failure(bad.id.as_ref(), &bad.error)),
        };
        match step {
            Step::Nothing => {}
            Step::Reply(reply) => self.reply(reply),
            Step::Run(work) => {
                if let Some(refused) = self.pool.submit(work) {
                    self.reply(refused);
                }
            }
        }
    }

    fn reply(&self, reply: Value) {
        // A client that takes nothing more ends the session by its own.
        let _ = self.replies.send(reply);
    }
}

/// Sends the messages of a call.
struct Replies<'a>(&'a Sender<Value>);

impl Sink for Replies<'_> {
    fn send(&self, message: &Value) {
        let _ = self.0.send(message.clone());
    }
}

/// Waits for input; `false` once `stop` is set.
fn wait(input: &impl AsFd, stop: &Event) -> io::Result<bool> {
    let mut fds = [
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
        PollFd::new(input.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(!fds[0].any().unwrap_or(true)),
        Err(errno) => Err(errno.into()),
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}

/// Writes messages until there are no more. After an error it sets `stop`, and drops the rest.
fn write(mut output: impl Write, waiting: &Receiver<Value>, stop: &Event) {
    let mut has_failed = false;
    for message in waiting {
        if has_failed {
            continue;
        }
        let mut line = message.to_string();
        line.push('\n');
        let written = output.write_all(line.as_bytes()).and_then(|()| output.flush());
        if let Err(error) = written {
            log::debug!("the client takes no more messages; error={error}");
            has_failed = true;
            stop.set();
        }
    }
}
