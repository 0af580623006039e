//! Signals to this process: taken by the thread `signals`, one at a time, in ordinary code.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};

/// Those by which people end a command, and the change of a terminal's size.
const OF_TERMINAL: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];

/// Those by which the service is told what to do.
const OF_SERVICE: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Those that keep their default actions: the kernel's about this very process, and a terminal's for
/// job control.
const NOT_TAKEN: [Signal; 15] = [
    Signal::SIGILL,
    Signal::SIGTRAP,
    Signal::SIGABRT,
    Signal::SIGBUS,
    Signal::SIGFPE,
    Signal::SIGSEGV,
    Signal::SIGSYS,
    Signal::SIGPIPE,
    Signal::SIGXCPU,
    Signal::SIGCHLD,
    Signal::SIGURG,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The signals that come to nobody but a [`Listener`].
pub(crate) struct Blocked {
    named: SigSet,
    /// The rest of those that would end this process, real-time ones too.
    others: SigSet,
}

/// Keeps signals for a [`Listener`]. To be called before there is another thread: those that come
/// later inherit that the signals are not theirs.
pub(crate) fn block() -> Result<Blocked> {
    let named: SigSet = OF_TERMINAL.iter().copied().collect();
    let others = others();
    (named | others).thread_block().map_err(failed)?;
    Ok(Blocked { named, others })
}

/// As [`block`], for the service.
pub(crate) fn block_for_service() -> Result<Blocked> {
    let named: SigSet = OF_SERVICE.iter().copied().collect();
    named.thread_block().map_err(failed)?;
    Ok(Blocked { named, others: SigSet::empty() })
}

/// Ignores what a command could be told by way of this process, where there is no command to tell.
pub(crate) fn ignore_others() -> Result<()> {
    others().thread_block().map_err(failed)
}

fn others() -> SigSet {
    let mut others = SigSet::all();
    for signal in OF_TERMINAL.into_iter().chain(NOT_TAKEN) {
        others.remove(signal);
    }
    others
}

fn failed(errno: Errno) -> Error {
    Error::Signals { source: errno.into() }
}

/// What the thread woke up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// A signal came.
    Signal(Signal),
    /// A signal came that says nothing to this process, of this number.
    Other(u8),
    /// The deadline that was set last is over.
    Deadline,
}

/// The thread. Dropping it stops and joins it; a signal then does what it does to any program, but for
/// the others: who sent one that came too late for the command did not mean to end this process.
pub(crate) struct Listener {
    named: SigSet,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Takes signals from here on: `act` is told of each, and of the deadline that it set last.
    pub(crate) fn start(
        Blocked { named, others }: Blocked,
        mut act: impl FnMut(Wake) -> Option<Instant> + Send + 'static,
    ) -> Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&(named | others), flags).map_err(failed)?;
        let stop = Arc::new(stop_event().map_err(failed)?);
        let stopped = Arc::clone(&stop);
        let listen = move || {
            let mut deadline = None;
            while wait(&signals, &stopped, deadline) {
                match signals.read_signal() {
                    // What was set stays: a terminal's new size must not call it off.
                    Ok(Some(info)) => deadline = act(wake(info.ssi_signo, &named)).or(deadline),
                    Ok(None) if is_over(deadline) => deadline = act(Wake::Deadline),
                    Ok(None) => {}
                    Err(errno) => log::error!("cannot take a signal; error={errno}"),
                }
            }
        };
        let thread = thread::Builder::new()
            .name("signals".into())
            .spawn(listen)
            .map_err(|source| Error::Thread { name: "signals", source })?;
        Ok(Self { named, stop, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        stop_and_join("signals", &self.stop, &mut self.thread);
        if let Err(errno) = self.named.thread_unblock() {
            log::error!("cannot let signals through; error={errno}");
        }
    }
}

fn wake(number: u32, named: &SigSet) -> Wake {
    match Signal::try_from(number as i32) {
        Ok(signal) if named.contains(signal) => Wake::Signal(signal),
        _ => Wake::Other(number as u8),
    }
}

/// An event that ends a thread's sleep.
pub(crate) fn stop_event() -> nix::Result<EventFd> {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

/// Ends a thread that sleeps on `stop` among other things.
pub(crate) fn stop_and_join(name: &str, stop: &EventFd, thread: &mut Option<JoinHandle<()>>) {
    if let Err(errno) = stop.write(1) {
        log::error!("cannot stop a thread; thread={name} error={errno}");
        return;
    }
    if thread.take().is_some_and(|thread| thread.join().is_err()) {
        log::error!("a thread panicked: this is a bug; thread={name}");
    }
}

fn is_over(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// Sleeps until a signal comes or the deadline is over; `false` once it is time to stop.
fn wait(signals: &SignalFd, stop: &EventFd, deadline: Option<Instant>) -> bool {
    let mut fds = [
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, timeout(deadline)) {
        Ok(_) | Err(Errno::EINTR) => !fds[1].any().unwrap_or(true),
        Err(errno) => {
            log::error!("cannot wait for signals; error={}", io::Error::from(errno));
            false
        }
    }
}

fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else {
        return PollTimeout::NONE;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
}
