//! What signals to this process mean.
//!
//! ```text
//!  aimed at    the VM that starts or is filled   the command that runs     nothing: a VM idles
//!  1st signal  pull                              passed on (or: cancel)    told to the owner
//!  2nd         pull                              cancel                    –
//!  3rd, or 5 s after the cancel                  pull                      –
//! ```
//!
//! That is for SIGINT, SIGTERM, SIGHUP and SIGQUIT. Others (SIGUSR1, SIGALRM, real-time ones) are
//! passed on to the command that runs, however many come, and ignored where none does.
//!
//! *Pull* is what ends everything at once: the VM's processes are killed, or the link to somebody
//! else's VM is cut. Whoever waits for the guest then gets an error, and [`Interrupt::explain`]
//! makes it the signal's. From the cancel on, nobody waits for a reader of our output any more:
//! [`Interrupt::called_off`].
//!
//! Who follows a job of the platform is like who waits for a VM: pulled is the connection, and the
//! job goes on.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::Signal;
use sandbox::Execution;

use crate::error::{Error, Result};
use crate::signal::{Blocked, Listener, Wake, stop_event};
use crate::terminal;

/// How long a cancelled command may take to end.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// What the first signal does to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum First {
    /// It is passed on.
    Forward,
    /// It ends the command: nobody sits in front of it.
    Cancel,
}

/// Ends everything at once.
pub(crate) type Pull = Arc<dyn Fn() + Send + Sync>;

/// Takes this process's signals for as long as it exists.
pub(crate) struct Interrupt {
    shared: Arc<Shared>,
    told: Receiver<()>,
    _listener: Listener,
}

struct Shared {
    first: First,
    pull: Pull,
    state: Mutex<State>,
    tell: Sender<()>,
    called_off: Arc<EventFd>,
}

struct State {
    aim: Aim,
    /// How many came since the aim was last changed.
    count: u32,
    /// The first that was taken, whatever it was aimed at.
    signal: Option<Signal>,
    pulled: bool,
}

#[derive(Clone)]
enum Aim {
    Start,
    Command(Arc<dyn Execution>),
    Nothing,
}

impl Interrupt {
    /// Takes signals from here on, aimed at what starts.
    pub(crate) fn start(signals: Blocked, first: First, pull: Pull) -> Result<Self> {
        let (tell, told) = crossbeam_channel::bounded(1);
        let state = State { aim: Aim::Start, count: 0, signal: None, pulled: false };
        let called_off = stop_event().map_err(|errno| Error::Signals { source: errno.into() })?;
        let (state, called_off) = (Mutex::new(state), Arc::new(called_off));
        let shared = Arc::new(Shared { first, pull, state, tell, called_off });
        let theirs = Arc::clone(&shared);
        let listener = Listener::start(signals, move |wake| theirs.act(wake))?;
        Ok(Self { shared, told, _listener: listener })
    }

    /// Aims signals at a command, until what this returns is dropped.
    pub(crate) fn aim(&self, execution: &Arc<dyn Execution>) -> Aimed<'_> {
        let before = self.turn(Aim::Command(Arc::clone(execution)));
        Aimed { interrupt: self, before }
    }

    /// From here on a signal only tells its owner to end a VM.
    pub(crate) fn idle(&self) {
        self.turn(Aim::Nothing);
    }

    /// Gets a message when a signal has come.
    pub(crate) fn told(&self) -> &Receiver<()> {
        &self.told
    }

    /// Is raised, and stays so, when a command is cancelled or everything is ended at once.
    pub(crate) fn called_off(&self) -> &Arc<EventFd> {
        &self.shared.called_off
    }

    /// Ends everything at once.
    pub(crate) fn pull(&self) {
        (self.shared.pull)();
    }

    /// Whether any signal has come that was not merely passed on to a command.
    pub(crate) fn is_asked_to_end(&self) -> bool {
        let state = self.shared.lock();
        state.signal.is_some() && (state.pulled || self.shared.first == First::Cancel)
    }

    /// Fails if a signal pulled the plug: perhaps there was nothing to pull yet.
    pub(crate) fn check(&self) -> Result<()> {
        self.explain(Ok(()))
    }

    /// The same result, unless it came about because a signal pulled the plug, or called off what
    /// nobody read.
    pub(crate) fn explain<T>(&self, result: Result<T>) -> Result<T> {
        let state = self.shared.lock();
        let called_off = result.as_ref().is_err_and(Error::is_cancelled_output);
        match state.signal {
            Some(signal) if state.pulled || called_off => Err(Error::Interrupted { signal }),
            _ => result,
        }
    }

    fn turn(&self, aim: Aim) -> Aim {
        let mut state = self.shared.lock();
        state.count = 0;
        mem::replace(&mut state.aim, aim)
    }
}

/// Signals are aimed at a command. Dropping it aims them where they were aimed before.
pub(crate) struct Aimed<'a> {
    interrupt: &'a Interrupt,
    before: Aim,
}

impl Drop for Aimed<'_> {
    fn drop(&mut self) {
        self.interrupt.turn(self.before.clone());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On the thread `signals`: does what a signal or a deadline asks for.
    fn act(&self, wake: Wake) -> Option<Instant> {
        match wake {
            Wake::Signal(Signal::SIGWINCH) => self.resize(),
            Wake::Other(number) => {
                // Whatever it means, it does not end the run, so it is not counted.
                if let Aim::Command(command) = &self.lock().aim.clone() {
                    return forward(&**command, number);
                }
            }
            Wake::Signal(signal) => return self.take(signal),
            Wake::Deadline => {
                if matches!(self.lock().aim, Aim::Command(_)) {
                    self.pull();
                }
            }
        }
        None
    }

    fn take(&self, signal: Signal) -> Option<Instant> {
        let (aim, count) = {
            let mut state = self.lock();
            state.signal.get_or_insert(signal);
            state.count += 1;
            (state.aim.clone(), state.count)
        };
        log::debug!("signal taken; signal={signal} count={count}");
        // Full means that it was told already.
        let _ = self.tell.try_send(());
        let done = match (aim, count) {
            (Aim::Nothing, _) => return None,
            (Aim::Start, _) => return self.pull(),
            (Aim::Command(command), 1) if self.first == First::Forward => {
                return forward(&*command, signal as u8);
            }
            (Aim::Command(command), 1) => self.cancel(&*command),
            (Aim::Command(command), 2) if self.first == First::Forward => self.cancel(&*command),
            (Aim::Command(_), _) => return self.pull(),
        };
        if let Err(error) = done {
            log::debug!("cannot cancel; error={error}");
        }
        Some(Instant::now() + GRACE)
    }

    fn cancel(&self, command: &dyn Execution) -> sandbox::Result<()> {
        self.call_off();
        command.cancel(heard())
    }

    /// Tells what was pulled before it is felt.
    fn pull(&self) -> Option<Instant> {
        self.lock().pulled = true;
        self.call_off();
        (self.pull)();
        None
    }

    fn call_off(&self) {
        if let Err(errno) = self.called_off.write(1) {
            log::error!("cannot call off the output; error={errno}");
        }
    }

    fn resize(&self) {
        let Aim::Command(command) = self.lock().aim.clone() else {
            return;
        };
        let Some(size) = terminal::size() else {
            return;
        };
        if let Err(error) = command.resize(size) {
            log::debug!("cannot resize; error={error}");
        }
    }
}

/// How long a guest may take to hear a word.
fn heard() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn forward(command: &dyn Execution, signal: u8) -> Option<Instant> {
    if let Err(error) = command.signal(signal, heard()) {
        log::debug!("cannot pass a signal on; error={error}");
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

    struct Bench {
        shared: Shared,
        factory: sandbox::fake::Factory,
        command: Arc<dyn Execution>,
        pulls: Arc<AtomicU32>,
    }

    fn bench(first: First) -> Bench {
        let factory = Script::default().on("make", &[], 0).factory();
        let config: SandboxConfig = crate::request::tests::config();
        let sandbox =
            factory.start(&config, &sandbox::Cancellation::new(), Instant::now()).unwrap();
        let request = ExecRequest { argv: vec!["make".into()], ..ExecRequest::default() };
        let command: Arc<dyn Execution> = sandbox.exec(&request, Instant::now()).unwrap().into();
        let pulls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&pulls);
        let pull: Pull = Arc::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
        });
        let aim = Aim::Command(Arc::clone(&command));
        let state = Mutex::new(State { aim, count: 0, signal: None, pulled: false });
        let (tell, _) = crossbeam_channel::bounded(1);
        let called_off = Arc::new(stop_event().unwrap());
        let shared = Shared { first, pull, state, tell, called_off };
        Bench { shared, factory, command, pulls }
    }

    fn outcome(command: &dyn Execution) -> Outcome {
        match command.next(None).unwrap() {
            Event::Exit(exit) => exit.outcome,
            Event::Output(..) | Event::Ended(_) => panic!("no exit"),
        }
    }

    #[test]
    fn the_first_signal_is_passed_on() {
        let bench = bench(First::Forward);
        assert_eq!(bench.shared.act(Wake::Signal(Signal::SIGTERM)), None);
        assert_eq!(bench.factory.record().signals, [15]);
        assert_eq!(bench.shared.called_off.read(), Err(Errno::EAGAIN));
        assert_eq!(outcome(&*bench.command), Outcome::Exited(0));
    }

    #[test]
    fn the_second_cancels_and_sets_a_deadline() {
        let bench = bench(First::Forward);
        bench.shared.act(INT);
        assert!(bench.shared.act(INT).is_some());
        assert_eq!(outcome(&*bench.command), Outcome::Cancelled);
        assert_eq!(bench.shared.called_off.read(), Ok(1));
        assert_eq!(bench.pulls.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_third_and_a_passed_deadline_pull_the_plug() {
        let bench = bench(First::Forward);
        bench.shared.act(INT);
        bench.shared.act(INT);
        bench.shared.act(INT);
        assert_eq!(bench.pulls.load(Ordering::SeqCst), 1);
        bench.shared.act(Wake::Deadline);
        assert_eq!(bench.pulls.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn other_signals_are_passed_on_as_often_as_they_come_and_end_nothing() {
        let bench = bench(First::Forward);
        for signal in [10, 10, 12, 64] {
            assert_eq!(bench.shared.act(Wake::Other(signal)), None);
        }
        assert_eq!(bench.factory.record().signals, [10, 10, 12, 64]);
        assert_eq!(bench.shared.called_off.read(), Err(Errno::EAGAIN));
        bench.shared.act(INT);
        assert_eq!(bench.factory.record().signals, [10, 10, 12, 64, 2]);
    }

    #[test]
    fn other_signals_are_ignored_while_there_is_no_command() {
        let bench = bench(First::Forward);
        bench.shared.lock().aim = Aim::Start;
        bench.shared.act(Wake::Other(10));
        assert_eq!(bench.pulls.load(Ordering::SeqCst), 0);
        assert_eq!(bench.shared.lock().signal, None);
    }

    #[test]
    fn what_starts_is_pulled_at_once() {
        let bench = bench(First::Forward);
        bench.shared.lock().aim = Aim::Start;
        bench.shared.act(INT);
        assert_eq!(bench.pulls.load(Ordering::SeqCst), 1);
        assert!(bench.shared.lock().pulled);
        assert_eq!(bench.shared.called_off.read(), Ok(1));
    }

    #[test]
    fn a_plug_that_is_pulled_too_early_is_remembered() {
        let signals = crate::signal::block().unwrap();
        let interrupt = Interrupt::start(signals, First::Forward, Arc::new(|| {})).unwrap();
        assert!(interrupt.check().is_ok());

        interrupt.shared.act(INT);

        let error = interrupt.check().unwrap_err();
        assert!(matches!(error, Error::Interrupted { signal: Signal::SIGINT }), "{error}");
    }

    #[test]
    fn output_that_nobody_took_is_the_signals_doing() {
        let signals = crate::signal::block().unwrap();
        let interrupt = Interrupt::start(signals, First::Forward, Arc::new(|| {})).unwrap();
        interrupt.shared.lock().signal = Some(Signal::SIGTERM);
        let source = Errno::ECANCELED.into();

        let error = interrupt.explain::<()>(Err(Error::Output { source })).unwrap_err();

        assert!(matches!(error, Error::Interrupted { signal: Signal::SIGTERM }), "{error}");
    }

    #[test]
    fn a_command_in_the_background_is_cancelled_by_the_first() {
        let bench = bench(First::Cancel);
        assert!(bench.shared.act(INT).is_some());
        assert!(bench.factory.record().signals.is_empty());
        assert_eq!(outcome(&*bench.command), Outcome::Cancelled);
    }
}
