//! Handles the signals that end a command or a VM.
//!
//! ```text
//!  target      starting (the VM starts or is filled)   a command               idle (no command runs)
//!  1st signal  abort                                   forward (or: cancel)    notify the owner
//!  2nd         abort                                   cancel                  –
//!  3rd, or 5 s after the cancel                        abort                   –
//! ```
//!
//! This applies to SIGINT, SIGTERM, SIGHUP and SIGQUIT. All other signals (SIGUSR1, SIGALRM,
//! real-time ones) are forwarded to the running command without counting; without a command they are
//! ignored.
//!
//! *Abort* is immediate: it kills the VM of this process, or cuts the connection to the VM of another.
//! Requests to the guest then fail, and [`Interrupt::or_interrupted`] replaces their errors by
//! [`Error::Interrupted`]. *Cancel* asks the guest to end the command. Both raise
//! [`Interrupt::cancelled`], which ends writes to a reader that does not read.
//!
//! For a follower of a platform's job, abort cuts the connection to the platform; the job continues.

use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::event::Event;
use base::sync::Mutex;
use crossbeam_channel::{Receiver, Sender};
use nix::sys::signal::Signal;
use sandbox::Execution;

use crate::error::{Error, Result};
use crate::signal::{BlockedSignals, Listener, Wake};
use crate::terminal;

/// How long a cancelled command may take to end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// How long a guest may take to acknowledge a signal or a cancellation.
const ACKNOWLEDGEMENT: Duration = Duration::from_secs(10);

/// The effect of the first signal on a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstSignal {
    /// It is forwarded to the command.
    Forward,
    /// It cancels the command, which runs in the background.
    Cancel,
}

/// Kills the VM, or cuts the connection to it.
pub(crate) type Abort = Arc<dyn Fn() + Send + Sync>;

/// Handles this process's signals until it is dropped.
pub(crate) struct Interrupt {
    shared: Arc<Shared>,
    signalled: Receiver<()>,
    _listener: Listener,
}

struct Shared {
    first: FirstSignal,
    abort: Abort,
    state: Mutex<InterruptState>,
    notify: Sender<()>,
    cancelled: Arc<Event>,
}

struct InterruptState {
    target: Target,
    /// How many signals arrived since the target was last changed.
    count: u32,
    /// The first signal, whatever its target was.
    signal: Option<Signal>,
    is_aborted: bool,
}

#[derive(Clone)]
enum Target {
    Starting,
    Command(Arc<dyn Execution>),
    Idle,
}

impl Interrupt {
    /// Starts to handle signals; the target is a VM that starts.
    pub(crate) fn start(signals: BlockedSignals, first: FirstSignal, abort: Abort) -> Result<Self> {
        let (notify, signalled) = crossbeam_channel::bounded(1);
        let state =
            InterruptState { target: Target::Starting, count: 0, signal: None, is_aborted: false };
        let cancelled = Event::new().map_err(|errno| Error::Signals { source: errno.into() })?;
        let (state, cancelled) = (Mutex::new(state), Arc::new(cancelled));
        let shared = Arc::new(Shared { first, abort, state, notify, cancelled });
        let handler = Arc::clone(&shared);
        let listener = Listener::start(signals, move |wake| handler.handle(wake))?;
        Ok(Self { shared, signalled, _listener: listener })
    }

    /// Directs signals to a command until the returned guard is dropped.
    pub(crate) fn deliver_to(&self, execution: &Arc<dyn Execution>) -> TargetGuard<'_> {
        let previous = self.set_target(Target::Command(Arc::clone(execution)));
        TargetGuard { interrupt: self, previous }
    }

    /// From here on, a signal only notifies the owner of the VM; see [`Self::signalled`].
    pub(crate) fn idle(&self) {
        self.set_target(Target::Idle);
    }

    /// Receives a message when a signal arrived.
    pub(crate) fn signalled(&self) -> &Receiver<()> {
        &self.signalled
    }

    /// Set when a command is cancelled or everything is aborted; stays set.
    pub(crate) fn cancelled(&self) -> &Arc<Event> {
        &self.shared.cancelled
    }

    /// Kills the VM, or cuts the connection to it.
    pub(crate) fn abort(&self) {
        (self.shared.abort)();
    }

    /// Whether a signal arrived that was not only forwarded to a command.
    pub(crate) fn should_end(&self) -> bool {
        let state = self.shared.state.lock();
        state.signal.is_some() && (state.is_aborted || self.shared.first == FirstSignal::Cancel)
    }

    /// Fails if a signal has aborted, even if there was nothing to abort yet.
    pub(crate) fn check(&self) -> Result<()> {
        self.or_interrupted(Ok(()))
    }

    /// `result`, or [`Error::Interrupted`] if a signal aborted or cancelled a blocked write.
    pub(crate) fn or_interrupted<T>(&self, result: Result<T>) -> Result<T> {
        let state = self.shared.state.lock();
        let is_cancelled = result.as_ref().is_err_and(Error::is_cancelled_output);
        match state.signal {
            Some(signal) if state.is_aborted || is_cancelled => Err(Error::Interrupted { signal }),
            _ => result,
        }
    }

    fn set_target(&self, target: Target) -> Target {
        let mut state = self.shared.state.lock();
        state.count = 0;
        mem::replace(&mut state.target, target)
    }
}

/// Directs signals to a command. Dropping it restores the previous target.
pub(crate) struct TargetGuard<'a> {
    interrupt: &'a Interrupt,
    previous: Target,
}

impl Drop for TargetGuard<'_> {
    fn drop(&mut self) {
        self.interrupt.set_target(self.previous.clone());
    }
}

impl Shared {
    /// Runs on the thread `signals`. Returns the next deadline.
    fn handle(&self, wake: Wake) -> Option<Instant> {
        match wake {
            Wake::Signal(Signal::SIGWINCH) => self.resize(),
            Wake::Other(number) => {
                // It does not end the run, so it is not counted.
                if let Target::Command(command) = &self.target() {
                    return forward(&**command, number);
                }
            }
            Wake::Signal(signal) => return self.end(signal),
            Wake::Deadline => {
                if matches!(self.target(), Target::Command(_)) {
                    self.abort();
                }
            }
        }
        None
    }

    fn target(&self) -> Target {
        self.state.lock().target.clone()
    }

    fn end(&self, signal: Signal) -> Option<Instant> {
        let (target, count) = {
            let mut state = self.state.lock();
            state.signal.get_or_insert(signal);
            state.count += 1;
            (state.target.clone(), state.count)
        };
        log::debug!("signal received; signal={signal} count={count}");
        // A full channel holds a notification already.
        let _ = self.notify.try_send(());
        let forwards = self.first == FirstSignal::Forward;
        let cancelled = match (target, count) {
            (Target::Idle, _) => return None,
            (Target::Starting, _) => return self.abort(),
            (Target::Command(command), 1) if forwards => return forward(&*command, signal as u8),
            (Target::Command(command), 1) => self.cancel(&*command),
            (Target::Command(command), 2) if forwards => self.cancel(&*command),
            (Target::Command(_), _) => return self.abort(),
        };
        if let Err(error) = cancelled {
            log::debug!("cannot cancel the command; error={error}");
        }
        Some(Instant::now() + GRACE)
    }

    fn cancel(&self, command: &dyn Execution) -> sandbox::Result<()> {
        self.cancelled.set();
        command.cancel(Instant::now() + ACKNOWLEDGEMENT)
    }

    fn abort(&self) -> Option<Instant> {
        // Set first, so that an error caused by the abort is attributed to the signal.
        self.state.lock().is_aborted = true;
        self.cancelled.set();
        (self.abort)();
        None
    }

    fn resize(&self) {
        let Target::Command(command) = self.target() else {
            return;
        };
        let Some(size) = terminal::size() else {
            return;
        };
        if let Err(error) = command.resize(size) {
            log::debug!("cannot resize the command's terminal; error={error}");
        }
    }
}

fn forward(command: &dyn Execution, signal: u8) -> Option<Instant> {
    if let Err(error) = command.signal(signal, Instant::now() + ACKNOWLEDGEMENT) {
        log::debug!("cannot forward a signal; signal={signal} error={error}");
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::errno::Errno;
    use sandbox::fake::Script;
    use sandbox::{Event, ExecRequest, Outcome, SandboxConfig, SandboxFactory as _};

    use super::*;

    const INT: Wake = Wake::Signal(Signal::SIGINT);

    struct Fixture {
        shared: Shared,
        factory: sandbox::fake::Factory,
        command: Arc<dyn Execution>,
        /// Its end would end the command.
        _sandbox: Box<dyn sandbox::Sandbox>,
        aborts: Arc<AtomicU32>,
    }

    fn fixture(first: FirstSignal) -> Fixture {
        let factory = Script::default().on("make", &[], 0).factory();
        let config: SandboxConfig = sandbox::fake::config();
        let sandbox =
            factory.start(&config, &sandbox::Cancellation::new(), Instant::now()).unwrap();
        let request = ExecRequest { argv: vec!["make".into()], ..ExecRequest::default() };
        let command: Arc<dyn Execution> = sandbox.exec(&request, Instant::now()).unwrap().into();
        let aborts = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&aborts);
        let abort: Abort = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let target = Target::Command(Arc::clone(&command));
        let state =
            Mutex::new(InterruptState { target, count: 0, signal: None, is_aborted: false });
        let (notify, _) = crossbeam_channel::bounded(1);
        let cancelled = Arc::new(base::event::Event::new().unwrap());
        let shared = Shared { first, abort, state, notify, cancelled };
        Fixture { shared, factory, command, _sandbox: sandbox, aborts }
    }

    fn outcome(command: &dyn Execution) -> Outcome {
        match command.next(None).unwrap() {
            Event::Exit(exit) => exit.outcome,
            Event::Output(..) | Event::Ended(_) => panic!("no exit"),
        }
    }

    #[test]
    fn the_first_signal_is_forwarded_to_the_command() {
        let fixture = fixture(FirstSignal::Forward);
        assert_eq!(fixture.shared.handle(Wake::Signal(Signal::SIGTERM)), None);
        assert_eq!(fixture.factory.record().signals, [15]);
        assert!(!fixture.shared.cancelled.clear());
        assert_eq!(outcome(&*fixture.command), Outcome::Exited(0));
    }

    #[test]
    fn the_second_signal_cancels_the_command_and_sets_a_deadline() {
        let fixture = fixture(FirstSignal::Forward);
        fixture.shared.handle(INT);
        assert!(fixture.shared.handle(INT).is_some());
        assert_eq!(outcome(&*fixture.command), Outcome::Cancelled);
        assert!(fixture.shared.cancelled.clear());
        assert_eq!(fixture.aborts.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_third_signal_and_an_expired_deadline_abort() {
        let fixture = fixture(FirstSignal::Forward);
        fixture.shared.handle(INT);
        fixture.shared.handle(INT);
        fixture.shared.handle(INT);
        assert_eq!(fixture.aborts.load(Ordering::SeqCst), 1);
        fixture.shared.handle(Wake::Deadline);
        assert_eq!(fixture.aborts.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn other_signals_are_forwarded_every_time_and_end_nothing() {
        let fixture = fixture(FirstSignal::Forward);
        for signal in [10, 10, 12, 64] {
            assert_eq!(fixture.shared.handle(Wake::Other(signal)), None);
        }
        assert_eq!(fixture.factory.record().signals, [10, 10, 12, 64]);
        assert!(!fixture.shared.cancelled.clear());
        fixture.shared.handle(INT);
        assert_eq!(fixture.factory.record().signals, [10, 10, 12, 64, 2]);
    }

    #[test]
    fn other_signals_are_ignored_without_a_command() {
        let fixture = fixture(FirstSignal::Forward);
        fixture.shared.state.lock().target = Target::Starting;
        fixture.shared.handle(Wake::Other(10));
        assert_eq!(fixture.aborts.load(Ordering::SeqCst), 0);
        assert_eq!(fixture.shared.state.lock().signal, None);
    }

    #[test]
    fn a_signal_during_the_start_aborts_immediately() {
        let fixture = fixture(FirstSignal::Forward);
        fixture.shared.state.lock().target = Target::Starting;
        fixture.shared.handle(INT);
        assert_eq!(fixture.aborts.load(Ordering::SeqCst), 1);
        assert!(fixture.shared.state.lock().is_aborted);
        assert!(fixture.shared.cancelled.clear());
    }

    #[test]
    fn an_abort_before_there_is_a_vm_fails_the_next_check() {
        let signals = crate::signal::block().unwrap();
        let interrupt = Interrupt::start(signals, FirstSignal::Forward, Arc::new(|| {})).unwrap();
        assert!(interrupt.check().is_ok());

        interrupt.shared.handle(INT);

        let error = interrupt.check().unwrap_err();
        assert!(matches!(error, Error::Interrupted { signal: Signal::SIGINT }), "{error}");
    }

    #[test]
    fn a_cancelled_write_is_reported_as_the_signal() {
        let signals = crate::signal::block().unwrap();
        let interrupt = Interrupt::start(signals, FirstSignal::Forward, Arc::new(|| {})).unwrap();
        interrupt.shared.state.lock().signal = Some(Signal::SIGTERM);
        let source = Errno::ECANCELED.into();

        let error = interrupt.or_interrupted::<()>(Err(Error::Output { source })).unwrap_err();

        assert!(matches!(error, Error::Interrupted { signal: Signal::SIGTERM }), "{error}");
    }

    #[test]
    fn the_first_signal_cancels_a_background_command() {
        let fixture = fixture(FirstSignal::Cancel);
        assert!(fixture.shared.handle(INT).is_some());
        assert!(fixture.factory.record().signals.is_empty());
        assert_eq!(outcome(&*fixture.command), Outcome::Cancelled);
    }
}
