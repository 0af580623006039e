//! A request that may block in the kernel, and so has a thread.
//!
//! ```text
//!   loop: Transfer                         thread: Port
//!     parts   ── entries, bytes ──────────▶  next()
//!     events  ◀── entries, bytes, result ──  send()          bounded: the thread waits
//!     waker   ◀── "look at the events" ────
//!     cancel  ── "stop waiting" ──────────▶  wait_readable()
//! ```
//!
//! INVARIANT: the loop never waits for the thread. `parts` cannot block it, and holds no more
//! than the stream's window.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use vsock_proto::{
    Entry, Failure, GuestBody, ReceiveWindow, RequestId, SendWindow, Stream, WINDOW,
};

use crate::Result;
use crate::buffers::Buffers;
use crate::failure::{cancelled, refused, text};
use crate::link::Link;

/// How many events may wait for the loop: enough to read ahead while it sends.
const EVENTS: usize = 4;

/// A part of a request that the host sends.
pub(crate) enum Part {
    Entry(Entry),
    Data(Vec<u8>),
    End,
}

/// An event from the thread for the loop.
pub(crate) enum Event {
    Entry(Entry),
    Data(Vec<u8>),
    /// Credit of the stream to give back.
    Consumed(u64),
    Finished(std::result::Result<(), Failure>),
}

/// The thread's end.
pub(crate) struct Port {
    parts: Receiver<Part>,
    events: SyncSender<Event>,
    waker: Arc<EventFd>,
    cancel: Arc<EventFd>,
    pub(crate) buffers: Arc<Buffers>,
    /// Credit to give back that the loop does not know of yet.
    consumed: Cell<u64>,
}

impl Port {
    /// The next part, once it comes.
    pub(crate) fn next(&self) -> std::result::Result<Part, Failure> {
        match self.parts.try_recv() {
            Ok(part) => return Ok(part),
            Err(TryRecvError::Disconnected) => return Err(cancelled()),
            Err(TryRecvError::Empty) => self.give_back()?,
        }
        self.parts.recv().map_err(|_| cancelled())
    }

    /// Tells the loop something, unless the request is cancelled.
    pub(crate) fn send(&self, event: Event) -> std::result::Result<(), Failure> {
        if let Err(TryRecvError::Disconnected) = self.parts.try_recv() {
            return Err(cancelled());
        }
        self.tell(event)
    }

    /// Gives credit back, in few events: soon if more parts wait, else before waiting.
    pub(crate) fn consumed(&self, count: u64) -> std::result::Result<(), Failure> {
        self.consumed.set(self.consumed.get() + count);
        if self.consumed.get() >= WINDOW / 2 { self.give_back() } else { Ok(()) }
    }

    fn give_back(&self) -> std::result::Result<(), Failure> {
        match self.consumed.take() {
            0 => Ok(()),
            count => self.tell(Event::Consumed(count)),
        }
    }

    /// Waits until `fd` can be read.
    pub(crate) fn wait_readable(&self, fd: BorrowedFd<'_>) -> std::result::Result<(), Failure> {
        let mut fds = [
            PollFd::new(fd, PollFlags::POLLIN),
            PollFd::new(self.cancel.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[1].any() == Some(true) => Err(cancelled()),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(refused(errno, format!("cannot wait: {}", text(errno)))),
        }
    }

    fn tell(&self, event: Event) -> std::result::Result<(), Failure> {
        self.events.send(event).map_err(|_| cancelled())?;
        // Can only fail because the counter is full, and then the loop will look.
        let _ = self.waker.write(1);
        Ok(())
    }
}

/// The loop's end.
pub(crate) struct Transfer {
    /// Gone once the request is cancelled.
    parts: Option<Sender<Part>>,
    /// Whether all parts are sent.
    is_complete: bool,
    events: Receiver<Event>,
    cancel: Arc<EventFd>,
    buffers: Arc<Buffers>,
    thread: JoinHandle<()>,
    receive: ReceiveWindow,
    send: SendWindow,
    /// An event that waits for credit, or for the connection.
    held: Option<Event>,
}

impl Transfer {
    /// Starts a thread that does `job`.
    pub(crate) fn start(
        id: RequestId,
        waker: &Arc<EventFd>,
        job: impl FnOnce(&Port) -> std::result::Result<(), Failure> + Send + 'static,
    ) -> std::result::Result<Self, Failure> {
        let no_thread = |errno| {
            let message = format!("cannot start a thread: {}", text(errno));
            refused(errno, message)
        };
        let (parts_tx, parts) = mpsc::channel();
        let (events_tx, events) = mpsc::sync_channel(EVENTS);
        let cancel = Arc::new(EventFd::new().map_err(no_thread)?);
        let buffers = Arc::new(Buffers::default());
        let port = Port {
            parts,
            events: events_tx,
            waker: Arc::clone(waker),
            cancel: Arc::clone(&cancel),
            buffers: Arc::clone(&buffers),
            consumed: Cell::new(0),
        };
        // A thread's name has 15 bytes.
        let thread = thread::Builder::new()
            .name(format!("file-{}", id.0 % 10_000_000_000))
            .spawn(move || {
                let result = job(&port);
                // Fails if the connection is gone, and then the result has no reader.
                let _ = port.tell(Event::Finished(result));
            })
            .map_err(|error| no_thread(crate::account::errno(&error)))?;
        Ok(Self {
            parts: Some(parts_tx),
            is_complete: false,
            events,
            cancel,
            buffers,
            thread,
            receive: ReceiveWindow::default(),
            send: SendWindow::default(),
            held: None,
        })
    }

    /// Passes on a part that costs so much credit; returns the credit to grant now, which is
    /// what the thread will not take any more.
    pub(crate) fn receive(&mut self, part: Part, cost: u64) -> vsock_proto::Result<Option<u64>> {
        self.receive.received(cost)?;
        let parts = self.parts.as_ref().filter(|_| !self.is_complete);
        let is_taken = parts.is_some_and(|parts| parts.send(part).is_ok());
        Ok(if is_taken { None } else { self.receive.consumed(cost) })
    }

    /// The same for bytes of a file.
    pub(crate) fn receive_data(&mut self, bytes: &[u8]) -> vsock_proto::Result<Option<u64>> {
        let copy = self.buffers.copy_of(bytes);
        self.receive(Part::Data(copy), bytes.len() as u64)
    }

    /// No more parts will come; what comes nevertheless is dropped.
    pub(crate) fn end(&mut self) {
        if let Some(parts) = self.parts.as_ref().filter(|_| !self.is_complete) {
            // Fails if the thread has ended, and then its result is on its way.
            let _ = parts.send(Part::End);
        }
        self.is_complete = true;
    }

    pub(crate) fn granted(&mut self, count: u64) -> vsock_proto::Result<()> {
        self.send.granted(count)
    }

    /// Tells the thread to stop; its result says whether it did.
    pub(crate) fn cancel(&mut self) {
        self.parts = None;
        // Can only fail because the counter is full: it is set.
        let _ = self.cancel.write(1);
    }

    /// Sends what the thread has, as far as it may be sent; whether the request is finished.
    pub(crate) fn pump(&mut self, id: RequestId, link: &mut Link) -> Result<bool> {
        loop {
            let event = match self.held.take().map_or_else(|| self.events.try_recv(), Ok) {
                Ok(event) => event,
                Err(TryRecvError::Empty) => return Ok(false),
                Err(TryRecvError::Disconnected) => Event::Finished(Err(refused(
                    Errno::EIO,
                    "the request's thread ended without a result",
                ))),
            };
            let cost = match &event {
                Event::Entry(entry) => entry.cost(),
                Event::Data(bytes) => bytes.len() as u64,
                Event::Consumed(_) | Event::Finished(_) => 0,
            };
            let is_cancelled = self.parts.is_none();
            if cost > 0 && is_cancelled {
                continue;
            }
            let has_credit = self.send.available() >= cost.min(WINDOW);
            if cost > 0 && (!has_credit || link.is_congested()) {
                self.held = Some(event);
                return Ok(false);
            }
            self.send.sent(cost);
            match event {
                Event::Entry(entry) => link.send(id, GuestBody::Entry(entry))?,
                Event::Data(bytes) => {
                    link.send(id, GuestBody::Data(Stream::Stdout, &bytes))?;
                    self.buffers.give(bytes);
                }
                Event::Consumed(count) => {
                    if let Some(grant) = self.receive.consumed(count) {
                        link.send(id, GuestBody::Credit(grant))?;
                    }
                }
                Event::Finished(Ok(())) => {
                    link.send(id, GuestBody::Done)?;
                    return Ok(true);
                }
                Event::Finished(Err(failure)) => {
                    link.send(id, GuestBody::Failed(failure))?;
                    return Ok(true);
                }
            }
        }
    }

    /// The thread of a finished request.
    pub(crate) fn into_thread(self) -> JoinHandle<()> {
        self.thread
    }

    /// Ends the thread; gives it back if it has not ended by then.
    pub(crate) fn stop(mut self, deadline: Instant) -> Option<JoinHandle<()>> {
        self.cancel();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Some(self.thread),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if self.thread.join().is_err() {
            log::error!("a request's thread panicked");
        }
        None
    }
}
