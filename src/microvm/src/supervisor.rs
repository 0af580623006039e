//! The thread of a VM. It owns the [`Machine`] and sleeps in one `poll`.
//!
//! ```text
//!   caller                        vm-1a2b3c4d
//!   start ───────────────────────▶ Machine::start
//!         ◀── Started or error ───
//!         (waits for the guest)    poll: processes, console, control socket, wake-up;
//!                                  at times: how far the disk has grown
//!   order ── Order, wake-up ─────▶ Machine::assign, park, save
//!         ◀── done or error ──────
//!   stop  ── orders disconnect, wake-up ─▶ tears the machine down
//!         ◀── done disconnects ───
//! ```
//!
//! INVARIANT: when the thread has ended, by return or by panic, nothing of its VM is left.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use netns::Pool;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use sandbox::{SandboxConfig, SandboxId};
use vsock_host::Reactor;

use crate::fate::{Fate, Seal};
use crate::link::Link;
use crate::machine::{Blueprint, Machine};
use crate::snapshot::Snapshot;
use crate::vmm::Vmm;
use crate::{Error, Result, control};

/// What the thread is given.
#[derive(Clone)]
pub(crate) struct Task {
    pub(crate) state: PathBuf,
    pub(crate) config: SandboxConfig,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) reactor: Reactor,
    pub(crate) networks: Option<Arc<Pool>>,
    pub(crate) snapshot: Option<Snapshot>,
    /// Whether it is to be somebody's only later.
    pub(crate) is_warm: bool,
    /// How long it waited for its turn to start.
    pub(crate) waited: Duration,
    pub(crate) deadline: Instant,
}

/// What the thread can be told to do with its VM. After an error the VM is only good to be ended.
pub(crate) enum Deed {
    Assign(Box<SandboxConfig>),
    Park,
    Save,
}

struct Order {
    deed: Deed,
    deadline: Instant,
    reply: Sender<Result<()>>,
}

/// What the thread says when the VM's processes run.
pub(crate) struct Started {
    pub(crate) link: Arc<Link>,
    pub(crate) stages: Vec<(&'static str, Duration)>,
}

/// The end of what a VM's console said, for an error.
pub(crate) type LastWords = String;

/// The owner's end of a VM's thread. Dropping it ends the VM at once.
#[derive(Debug)]
pub(crate) struct Supervisor {
    id: SandboxId,
    /// Dropped to end the VM.
    orders: Option<Sender<Order>>,
    wake: Arc<EventFd>,
    done: Receiver<()>,
    fate: Arc<Fate>,
    thread: Option<JoinHandle<Result<LastWords>>>,
}

impl Supervisor {
    /// Starts the thread, and waits until it has started the VM's processes.
    pub(crate) fn start(task: Task) -> Result<(Self, Started)> {
        let id = task.config.id;
        let spawn_error = |source| Error::Thread { id, source };
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| spawn_error(errno.into()))?;
        let wake = Arc::new(wake);
        let (orders_tx, orders) = bounded(1);
        let (started_tx, started) = bounded(1);
        let (done_tx, done) = bounded(0);
        let (fate, seal) = Fate::new();
        let fate = Arc::new(fate);
        let thread = {
            let (wake, fate) = (Arc::clone(&wake), Arc::clone(&fate));
            Builder::new().name(format!("vm-{}", id.short())).spawn(move || {
                let _done = done_tx;
                run(&task, &Inbox { orders, wake }, &started_tx, (&fate, seal))
            })
        };
        let thread = Some(thread.map_err(spawn_error)?);
        let mut supervisor = Self { id, orders: Some(orders_tx), wake, done, fate, thread };
        match started.recv() {
            Ok(started) => Ok((supervisor, started)),
            Err(_) => Err(supervisor.join().err().unwrap_or(Error::Panicked { id })),
        }
    }

    /// Disconnects when the VM has ended and nothing is left of it.
    pub(crate) fn done(&self) -> &Receiver<()> {
        &self.done
    }

    /// Why the VM ended, once it has by itself.
    pub(crate) fn fate(&self) -> &Arc<Fate> {
        &self.fate
    }

    /// Has something done with the VM.
    pub(crate) fn order(&self, deed: Deed, deadline: Instant) -> Result<()> {
        let (reply, done) = bounded(1);
        let order = Order { deed, deadline, reply };
        let sent = self.orders.as_ref().and_then(|orders| orders.send(order).ok());
        if sent.is_some() {
            self.wake();
            if let Ok(done) = done.recv() {
                return done;
            }
        }
        let reason = self.fate.reason().cloned();
        Err(reason.map_or(Error::Panicked { id: self.id }, |reason| Error::Gone { reason }))
    }

    fn wake(&self) {
        if let Err(errno) = self.wake.write(1) {
            log::error!("cannot wake a vm's thread; vm={} error={errno}", self.id);
        }
    }

    /// Ends the VM at once, and returns why it ended if that was not our doing.
    pub(crate) fn stop(mut self) -> Result<LastWords> {
        self.join()
    }

    fn join(&mut self) -> Result<LastWords> {
        let Some(thread) = self.thread.take() else {
            return Ok(LastWords::default());
        };
        self.orders = None;
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

/// The thread's end of what the owner says.
struct Inbox {
    orders: Receiver<Order>,
    wake: Arc<EventFd>,
}

fn run(
    task: &Task,
    inbox: &Inbox,
    started: &Sender<Started>,
    (fate, seal): (&Fate, Seal),
) -> Result<LastWords> {
    let blueprint = Blueprint {
        state: &task.state,
        config: &task.config,
        vmm: &*task.vmm,
        reactor: &task.reactor,
        networks: task.networks.as_deref(),
        snapshot: task.snapshot.as_ref(),
        is_warm: task.is_warm,
        deadline: task.deadline,
    };
    let mut machine = Machine::start(&blueprint)?;
    let stages = std::mem::take(&mut machine.stages);
    let _ = started.send(Started { link: Arc::clone(&machine.link), stages });
    let ended = supervise(&mut machine, inbox);
    if let Err(error) = &ended {
        fate.tell(error);
    }
    // Those who lost the guest need not wait until the machine is taken down.
    drop(seal);
    ended?;
    Ok(machine.console.last_words("the console"))
}

/// Sleeps until something happens to the VM; returns when it is to go, an error if it went by itself.
fn supervise(machine: &mut Machine, inbox: &Inbox) -> Result<()> {
    let mut open = Open { console: true, errors: true, control: true };
    let mut next_check = Instant::now();
    loop {
        if next_check <= Instant::now() {
            next_check = Instant::now() + machine.growth.check()?;
        }
        let ready = wait(machine, &inbox.wake, &open, next_check)?;
        if ready.wake && obey(machine, inbox) == Err(TryRecvError::Disconnected) {
            return Ok(());
        }
        if ready.console {
            open.console = taken(machine.console.take());
        }
        if ready.errors {
            open.errors = taken(machine.errors.take());
        }
        // A socket that cannot be accepted from is left alone until something else happens.
        open.control = !ready.control || control::accept(&machine.control, &machine.link);
        if ready.process
            && let Some(ended) = machine.ended()?
        {
            return Err(machine.explain(&ended));
        }
    }
}

/// Does what the owner says; says whether there is still one.
fn obey(machine: &mut Machine, inbox: &Inbox) -> std::result::Result<(), TryRecvError> {
    // Only to be asleep again: what was said is in the channel.
    let _ = inbox.wake.read();
    loop {
        let Order { deed, deadline, reply } = match inbox.orders.try_recv() {
            Ok(order) => order,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(gone) => return Err(gone),
        };
        let done = match deed {
            Deed::Assign(config) => machine.assign(&config, deadline),
            Deed::Park => machine.park(deadline),
            Deed::Save => machine.save(deadline),
        };
        let _ = reply.send(done);
    }
}

/// Whether there may be more to take. A pipe that cannot be read is left alone.
fn taken(result: std::io::Result<bool>) -> bool {
    result.unwrap_or_else(|error| {
        log::warn!("what the vm says is no longer heard; error={error}");
        false
    })
}

/// What is listened to.
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

/// Listens to `fd`, or to nothing. A pipe whose other end was closed reports that for ever, asked
/// or not: in its place is an event that never hangs up.
fn interest<'a>(is_open: bool, fd: BorrowedFd<'a>, instead: &'a EventFd) -> PollFd<'a> {
    match is_open {
        true => PollFd::new(fd, PollFlags::POLLIN),
        false => PollFd::new(instead.as_fd(), PollFlags::empty()),
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

        let heard = poll(&mut [interest(true, console.as_fd(), &stop)], PollTimeout::ZERO);
        let left_alone = poll(&mut [interest(false, console.as_fd(), &stop)], PollTimeout::ZERO);

        assert_eq!((heard, left_alone), (Ok(1), Ok(0)));
    }
}
