//! The thread of a VM. It owns the [`Machine`] and sleeps in one `poll`.
//!
//! ```text
//!   caller                        vm-1a2b3c4d
//!   start ───────────────────────▶ Machine::start
//!         ◀── Started or error ───
//!         (waits for the guest)    poll: processes, console, control socket, wake-up;
//!                                  periodically: the growth of the disk
//!   request ── VmRequest, wake-up ▶ Machine::assign, park, save
//!         ◀── done or error ──────
//!   stop  ── requests disconnect, wake-up ─▶ drops the machine
//!         ◀── done disconnects ───
//! ```
//!
//! INVARIANT: when the thread has ended, by return or by panic, nothing of its VM is left.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use sandbox::{Network, SandboxConfig, SandboxId};

use crate::exit_reason::{ExitReason, Publisher};
use crate::link::GuestLink;
use crate::machine::Machine;
use crate::start_request::StartRequest;
use crate::{Error, Result, control};

/// What the thread does with its VM on request. After an error the VM can only be ended.
pub(crate) enum VmCommand {
    Assign(Box<SandboxConfig>),
    Park,
    SetNetwork(Box<Network>),
    Save,
}

struct VmRequest {
    command: VmCommand,
    deadline: Instant,
    reply: Sender<Result<()>>,
}

/// What the thread reports when the VM's processes run.
pub(crate) struct Started {
    pub(crate) link: Arc<GuestLink>,
    pub(crate) stages: Vec<(&'static str, Duration)>,
}

/// The last lines of a VM's console, for an error.
pub(crate) type ConsoleTail = String;

/// The owner's end of a VM's thread. Dropping it ends the VM at once.
#[derive(Debug)]
pub(crate) struct Supervisor {
    id: SandboxId,
    /// Dropped to end the VM.
    requests: Option<Sender<VmRequest>>,
    wake: Arc<EventFd>,
    done: Receiver<()>,
    exit_reason: Arc<ExitReason>,
    thread: Option<JoinHandle<Result<ConsoleTail>>>,
}

impl Supervisor {
    /// Starts the thread, and waits until it has started the VM's processes.
    pub(crate) fn start(request: StartRequest) -> Result<(Self, Started)> {
        let id = request.config.id;
        let spawn_error = |source| Error::Thread { id, source };
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| spawn_error(errno.into()))?;
        let wake = Arc::new(wake);
        let (requests_tx, requests) = bounded(1);
        let (started_tx, started) = bounded(1);
        let (done_tx, done) = bounded(0);
        let (exit_reason, publisher) = ExitReason::new();
        let exit_reason = Arc::new(exit_reason);
        let thread = {
            let (wake, exit_reason) = (Arc::clone(&wake), Arc::clone(&exit_reason));
            Builder::new().name(format!("vm-{}", id.short())).spawn(move || {
                let _done = done_tx;
                let queue = RequestQueue { requests, wake };
                run(&request, &queue, &started_tx, (&exit_reason, publisher))
            })
        };
        let thread = Some(thread.map_err(spawn_error)?);
        let mut supervisor =
            Self { id, requests: Some(requests_tx), wake, done, exit_reason, thread };
        match started.recv() {
            Ok(started) => Ok((supervisor, started)),
            Err(_) => Err(supervisor.join().err().unwrap_or(Error::Panicked { id })),
        }
    }

    /// Disconnects when the VM has ended and all its resources are released.
    pub(crate) fn done(&self) -> &Receiver<()> {
        &self.done
    }

    /// Why the VM ended, if it ended by itself.
    pub(crate) fn exit_reason(&self) -> &Arc<ExitReason> {
        &self.exit_reason
    }

    /// Has the thread execute a command, and waits for its result.
    pub(crate) fn request(&self, command: VmCommand, deadline: Instant) -> Result<()> {
        let (reply, done) = bounded(1);
        let request = VmRequest { command, deadline, reply };
        let sent = self.requests.as_ref().and_then(|requests| requests.send(request).ok());
        if sent.is_some() {
            self.wake();
            if let Ok(done) = done.recv() {
                return done;
            }
        }
        let reason = self.exit_reason.wait().cloned();
        Err(reason.map_or(Error::Panicked { id: self.id }, |reason| Error::Gone { reason }))
    }

    fn wake(&self) {
        if let Err(errno) = self.wake.write(1) {
            log::error!("cannot wake a vm's thread; vm={} error={errno}", self.id);
        }
    }

    /// Ends the VM at once. The error is why it had ended before.
    pub(crate) fn stop(mut self) -> Result<ConsoleTail> {
        self.join()
    }

    fn join(&mut self) -> Result<ConsoleTail> {
        let Some(thread) = self.thread.take() else {
            return Ok(ConsoleTail::default());
        };
        self.requests = None;
        self.wake();
        thread.join().unwrap_or(Err(Error::Panicked { id: self.id }))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            log::debug!("vm had ended; vm={} reason={error}", self.id);
        }
    }
}

/// The thread's end of the owner's requests.
struct RequestQueue {
    requests: Receiver<VmRequest>,
    wake: Arc<EventFd>,
}

fn run(
    request: &StartRequest,
    queue: &RequestQueue,
    started: &Sender<Started>,
    (exit_reason, publisher): (&ExitReason, Publisher),
) -> Result<ConsoleTail> {
    let mut machine = Machine::start(request)?;
    let stages = std::mem::take(&mut machine.stages);
    let _ = started.send(Started { link: Arc::clone(&machine.link), stages });
    let ended = supervise(&mut machine, queue);
    if let Err(error) = &ended {
        exit_reason.set(error);
    }
    // Callers that lost the guest need not wait until the machine is dropped.
    drop(publisher);
    ended?;
    Ok(machine.console.tail("the console"))
}

/// Serves the VM until its owner drops it. If it ends by itself, that is the error.
fn supervise(machine: &mut Machine, queue: &RequestQueue) -> Result<()> {
    let mut open = Open { console: true, errors: true, control: true };
    let mut next_check = Instant::now();
    loop {
        if next_check <= Instant::now() {
            next_check = Instant::now() + machine.growth.check()?;
        }
        let ready = wait(machine, &queue.wake, &open, next_check)?;
        if ready.wake && handle_requests(machine, queue) == Err(TryRecvError::Disconnected) {
            return Ok(());
        }
        if ready.console {
            open.console = is_open(machine.console.drain());
        }
        if ready.errors {
            open.errors = is_open(machine.errors.drain());
        }
        // After a failed accept the socket is not polled until another event.
        open.control = !ready.control || control::accept(&machine.control, &machine.link);
        if ready.process
            && let Some(ended) = machine.ended()?
        {
            return Err(machine.explain(&ended));
        }
    }
}

/// Handles all queued requests; `Disconnected` when the owner has dropped the VM.
fn handle_requests(
    machine: &mut Machine,
    queue: &RequestQueue,
) -> std::result::Result<(), TryRecvError> {
    // Resets the eventfd; the requests are in the channel.
    let _ = queue.wake.read();
    loop {
        let VmRequest { command, deadline, reply } = match queue.requests.try_recv() {
            Ok(request) => request,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(disconnected) => return Err(disconnected),
        };
        let done = match command {
            VmCommand::Assign(config) => machine.assign(&config, deadline),
            VmCommand::Park => machine.park(deadline),
            VmCommand::SetNetwork(network) => machine.set_network(&network),
            VmCommand::Save => machine.save(deadline),
        };
        let _ = reply.send(done);
    }
}

/// Whether to go on polling a pipe. A pipe that cannot be read is not polled any more.
fn is_open(result: std::io::Result<bool>) -> bool {
    result.unwrap_or_else(|error| {
        log::warn!("output of the vm is not captured any more; error={error}");
        false
    })
}

/// Which descriptors are polled.
struct Open {
    console: bool,
    errors: bool,
    control: bool,
}

struct Ready {
    wake: bool,
    console: bool,
    errors: bool,
    control: bool,
    process: bool,
}

/// The one place where a VM's thread sleeps.
fn wait(machine: &Machine, wake: &EventFd, open: &Open, deadline: Instant) -> Result<Ready> {
    let mut fds = vec![
        PollFd::new(wake.as_fd(), PollFlags::POLLIN),
        interest(open.console, machine.console.descriptor(), wake),
        interest(open.errors, machine.errors.descriptor(), wake),
        interest(open.control, machine.control.as_fd(), wake),
    ];
    let pidfds = machine.members.iter().map(|member| member.child.pidfd());
    fds.extend(pidfds.map(|pidfd| PollFd::new(pidfd, PollFlags::POLLIN)));
    loop {
        match poll(&mut fds, process::poll_timeout(deadline)) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::Poll { source: errno.into() }),
            Ok(_) => break,
        }
    }
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(true);
    Ok(Ready {
        wake: ready(&fds[0]),
        console: open.console && ready(&fds[1]),
        errors: open.errors && ready(&fds[2]),
        control: open.control && ready(&fds[3]),
        process: fds[4..].iter().any(ready),
    })
}

/// Polls `fd`, or nothing. poll(2) reports POLLHUP of a closed pipe even without interest, so an eventfd
/// takes its place.
fn interest<'a>(is_open: bool, fd: BorrowedFd<'a>, instead: &'a EventFd) -> PollFd<'a> {
    if is_open {
        PollFd::new(fd, PollFlags::POLLIN)
    } else {
        PollFd::new(instead.as_fd(), PollFlags::empty())
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::PollTimeout;

    use super::*;

    #[test]
    fn a_monitor_that_closes_its_console_does_not_keep_its_thread_awake() {
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC).unwrap();
        let (console, console_tx) = std::io::pipe().unwrap();
        drop(console_tx);

        let polled = poll(&mut [interest(true, console.as_fd(), &stop)], PollTimeout::ZERO);
        let not_polled = poll(&mut [interest(false, console.as_fd(), &stop)], PollTimeout::ZERO);

        assert_eq!((polled, not_polled), (Ok(1), Ok(0)));
    }
}
