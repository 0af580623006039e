//! Bytes between a client and a port of a sandbox, both ways, on one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use base::deadline::poll_until;
use base::event::Event;
use http_server::Socket;
use nix::poll::{PollFd, PollFlags};

/// How many bytes wait in each direction.
const BUFFER: usize = 32 << 10;

/// How long a client that still sends is read from after the end.
const LINGER: Duration = Duration::from_secs(2);

/// How long the client may take nothing of what it gets, and a port may be silent after the client's end.
const PROGRESS_TIMEOUT: Duration = Duration::from_secs(60);

/// Forwards between a client and a port of a sandbox until the port's end, the client's, or until `closed` is set.
/// `begin` goes to the port first.
pub fn forward(client: &Socket, guest: &UnixStream, begin: Vec<u8>, closed: &Event) {
    match run(client, guest, begin, closed) {
        Ok(End::Complete) => linger(client),
        Ok(End::Cut) => {}
        Err(error) => log::debug!("a connection to a port ended; error={error}"),
    }
    client.shutdown(Shutdown::Both);
}

/// How a connection ended.
enum End {
    /// The client got all that the port sent.
    Complete,
    /// The client went, or the sandbox was paused or ended.
    Cut,
}

/// Reads what the client still sends: closing a socket with unread bytes would reset it before the client
/// reads the reply.
fn linger(client: &Socket) {
    client.shutdown(Shutdown::Write);
    if client.set_nonblocking(false).is_ok() {
        let deadline = Instant::now() + LINGER;
        let mut buffer = [0; 4096];
        while let Ok(1..) = client.read_until(&mut buffer, deadline) {}
    }
}

fn run(client: &Socket, guest: &UnixStream, begin: Vec<u8>, closed: &Event) -> io::Result<End> {
    client.set_nonblocking(true)?;
    guest.set_nonblocking(true)?;
    let (mut up, mut down) = (Pipe::new(begin), Pipe::new(Vec::new()));
    let mut progress = Instant::now();
    loop {
        // Without progress to be made, time does not count.
        let is_idle = down.is_empty() && !up.has_ended;
        let deadline = (!is_idle).then(|| progress + PROGRESS_TIMEOUT);
        let ready = wait((client, guest, closed), (&up, &down), deadline)?;
        if ready.is_closed || ready.client_is_gone {
            return Ok(End::Cut);
        }
        if ready.client_in {
            up.fill(&mut &*client)?;
        }
        if ready.guest_in && down.fill(&mut &*guest)? {
            progress = Instant::now();
        }
        if ready.guest_out && up.drain(&mut &*guest).is_err() {
            // It reads no more. What it wrote still goes to the client.
            up.end();
        }
        if ready.client_out && down.drain(&mut &*client)? {
            progress = Instant::now();
        }
        if up.has_ended && up.is_empty() && !std::mem::replace(&mut up.is_shut, true) {
            // The port may have ended.
            let _ = guest.shutdown(Shutdown::Write);
        }
        if down.has_ended && down.is_empty() {
            return Ok(End::Complete);
        }
        if down.is_empty() && !up.has_ended {
            progress = Instant::now();
        } else if progress.elapsed() > PROGRESS_TIMEOUT {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// What can be done without waiting.
struct Ready {
    is_closed: bool,
    client_in: bool,
    client_out: bool,
    client_is_gone: bool,
    guest_in: bool,
    guest_out: bool,
}

fn wait(
    (client, guest, closed): (&Socket, &UnixStream, &Event),
    (up, down): (&Pipe, &Pipe),
    deadline: Option<Instant>,
) -> io::Result<Ready> {
    let interest = |from: &Pipe, to: &Pipe| {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, from.wants_more());
        flags.set(PollFlags::POLLOUT, !to.is_empty());
        flags
    };
    let guest_interest = interest(down, up);
    let mut fds = [
        PollFd::new(closed.as_fd(), PollFlags::POLLIN),
        PollFd::new(client.as_fd(), interest(up, down)),
        PollFd::new(guest.as_fd(), guest_interest),
    ];
    // An end that is of no interest now would be reported again and again.
    let count = if guest_interest.is_empty() { 2 } else { 3 };
    poll_until(fds.get_mut(..count).unwrap_or_default(), deadline)?;
    let [closed, client, guest] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
    let end = PollFlags::POLLHUP | PollFlags::POLLERR;
    Ok(Ready {
        is_closed: !closed.is_empty(),
        client_in: client.contains(PollFlags::POLLIN),
        client_out: client.contains(PollFlags::POLLOUT),
        client_is_gone: client.intersects(end),
        guest_in: down.wants_more() && guest.intersects(PollFlags::POLLIN | end),
        guest_out: !up.is_empty() && guest.intersects(PollFlags::POLLOUT | end),
    })
}

/// One direction: what was read and not written yet.
struct Pipe {
    buffer: Vec<u8>,
    written: usize,
    /// There is no more to read.
    has_ended: bool,
    /// Its end was passed on.
    is_shut: bool,
}

impl Pipe {
    fn new(buffer: Vec<u8>) -> Self {
        Self { buffer, written: 0, has_ended: false, is_shut: false }
    }

    fn is_empty(&self) -> bool {
        self.written >= self.buffer.len()
    }

    fn wants_more(&self) -> bool {
        !self.has_ended && self.is_empty()
    }

    /// Reads what is there. Returns whether that was something.
    fn fill(&mut self, from: &mut impl Read) -> io::Result<bool> {
        if !self.wants_more() {
            return Ok(false);
        }
        self.buffer.resize(BUFFER, 0);
        let read = from.read(&mut self.buffer);
        self.buffer.truncate(read.as_ref().copied().unwrap_or(0));
        self.written = 0;
        match read {
            Ok(count) => self.has_ended = count == 0,
            Err(error) if is_early(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(!self.buffer.is_empty())
    }

    /// Writes what there is room for. Returns whether that was something.
    fn drain(&mut self, to: &mut impl Write) -> io::Result<bool> {
        match to.write(self.buffer.get(self.written..).unwrap_or_default()) {
            Ok(count) => {
                self.written += count;
                Ok(count > 0)
            }
            Err(error) if is_early(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops what there is, and reads no more.
    fn end(&mut self) {
        self.buffer.clear();
        self.written = 0;
        self.has_ended = true;
    }
}

fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
