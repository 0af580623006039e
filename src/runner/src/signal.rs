//! Signals of this process: blocked, read from a signalfd by the thread `signals`, and handled one at a
//! time in ordinary code.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use base::deadline::poll_timeout;
use base::event::Event;
use crossbeam_channel::{Receiver, bounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::error::{Error, Result};

/// The signals that end a command, and the change of the terminal's size.
const TERMINAL_SIGNALS: [Signal; 5] =
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGWINCH];

/// The signals that control the service.
const SERVICE_SIGNALS: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The signals that keep their default actions: those that the kernel sends about this process, and those
/// of job control.
const UNBLOCKED_SIGNALS: [Signal; 15] = [
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

/// The signals that are blocked for a [`Listener`].
pub(crate) struct BlockedSignals {
    named: SigSet,
    /// All other signals that would end this process, including real-time ones.
    others: SigSet,
}

/// Blocks the signals that a [`Listener`] reads. Call it before any thread is started: threads inherit the
/// signal mask.
pub(crate) fn block() -> Result<BlockedSignals> {
    let named: SigSet = TERMINAL_SIGNALS.iter().copied().collect();
    let others = others();
    (named | others).thread_block().map_err(failed)?;
    Ok(BlockedSignals { named, others })
}

/// As [`block`], for the service.
pub(crate) fn block_for_service() -> Result<BlockedSignals> {
    let named: SigSet = SERVICE_SIGNALS.iter().copied().collect();
    named.thread_block().map_err(failed)?;
    Ok(BlockedSignals { named, others: SigSet::empty() })
}

/// Blocks the signals that are only meant to be forwarded to a command, while there is no command.
pub(crate) fn ignore_others() -> Result<()> {
    others().thread_block().map_err(failed)
}

fn others() -> SigSet {
    let mut others = SigSet::all();
    for signal in TERMINAL_SIGNALS.into_iter().chain(UNBLOCKED_SIGNALS) {
        others.remove(signal);
    }
    others
}

fn failed(errno: Errno) -> Error {
    Error::Signals { source: errno.into() }
}

/// Why the thread woke up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// One of the named signals arrived.
    Signal(Signal),
    /// Another signal arrived, with this number.
    Other(u8),
    /// The most recent deadline has passed.
    Deadline,
}

/// The thread `signals`. Dropping it stops and joins it and unblocks the named signals. The others stay
/// blocked: one that arrives too late for the command must not end this process.
pub(crate) struct Listener {
    named: SigSet,
    stop: Arc<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts the thread. It calls `handle` for each signal, and when the deadline that `handle` returned
    /// last has passed.
    pub(crate) fn start(
        BlockedSignals { named, others }: BlockedSignals,
        mut handle: impl FnMut(Wake) -> Option<Instant> + Send + 'static,
    ) -> Result<Self> {
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&(named | others), flags).map_err(failed)?;
        let stop = Arc::new(Event::new().map_err(failed)?);
        let stopped = Arc::clone(&stop);
        let listen = move || {
            let mut deadline = None;
            while wait(&signals, &stopped, deadline) {
                match signals.read_signal() {
                    // Resizing the terminal must not clear a deadline.
                    Ok(Some(info)) => deadline = handle(wake(info.ssi_signo, &named)).or(deadline),
                    Ok(None) if has_passed(deadline) => deadline = handle(Wake::Deadline),
                    Ok(None) => {}
                    Err(errno) => log::error!("cannot read a signal; error={errno}"),
                }
            }
        };
        let thread = base::thread::spawn("signals", listen)
            .map_err(|source| Error::Thread { name: "signals", source })?;
        Ok(Self { named, stop, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        stop_and_join(&self.stop, &mut self.thread);
        if let Err(errno) = self.named.thread_unblock() {
            log::error!("cannot unblock signals; error={errno}");
        }
    }
}

/// A listener whose channel gets a signal that ends the command. Further ones are ignored.
pub(crate) fn until_end() -> Result<(Listener, Receiver<Signal>)> {
    let (tell, signals) = bounded(1);
    let listener = Listener::start(block()?, move |wake| {
        if let Wake::Signal(signal) = wake
            && signal != Signal::SIGWINCH
        {
            // A full channel holds a signal already.
            let _ = tell.try_send(signal);
        }
        None
    })?;
    Ok((listener, signals))
}

fn wake(number: u32, named: &SigSet) -> Wake {
    match Signal::try_from(number as i32) {
        Ok(signal) if named.contains(signal) => Wake::Signal(signal),
        _ => Wake::Other(number as u8),
    }
}

/// Ends a thread that waits for `stop`, and joins it.
pub(crate) fn stop_and_join(stop: &Event, thread: &mut Option<JoinHandle<()>>) {
    stop.set();
    thread.take().map(base::thread::join);
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| deadline <= Instant::now())
}

/// Waits for a signal or the deadline; `false` once `stop` is set.
fn wait(signals: &SignalFd, stop: &Event, deadline: Option<Instant>) -> bool {
    let mut fds = [
        PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        PollFd::new(stop.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, deadline.map_or(PollTimeout::NONE, poll_timeout)) {
        Ok(_) | Err(Errno::EINTR) => !fds[1].any().unwrap_or(true),
        Err(errno) => {
            log::error!("cannot wait for signals; error={}", io::Error::from(errno));
            false
        }
    }
}
