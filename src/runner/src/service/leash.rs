//! How a job is ended from outside while its own thread waits for its VM.
//!
//! ```text
//!                     VM starts, files come    the agent runs         it is over
//!  ask                pull the plug            SIGTERM to the agent   –
//!  force              pull the plug            SIGKILL to the agent   –
//!  force again        pull the plug            pull the plug          –
//! ```
//!
//! An agent that is killed leaves the number of the last event that the platform has acknowledged.
//!
//! Whoever waits for the guest, or for what the guest is to get, then has an error or an exit, and
//! [`Leash::end`] says why. Whoever pulls waits for nobody.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use guest_common::Stop;
use nix::sys::signal::Signal;
use sandbox::{Cancellation, Execution, SandboxId};

use crate::error::{Error, Result};

/// How long a guest that reads nothing keeps the main thread from its other jobs. Such a guest is
/// ended by force, later.
const HEARD: Duration = Duration::from_millis(100);

/// Kills a VM, at whatever point it is.
pub(crate) type Plug = Arc<dyn Fn(SandboxId) + Send + Sync>;

/// Why a job does not end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody asked for it.
    Cancelled,
    /// Its time was up.
    TimedOut,
    /// The runner is to stop.
    Stopped,
}

impl End {
    /// The exit code of a job that ended so and has none of its own.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::TimedOut => 124,
            Self::Cancelled | Self::Stopped => 137,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cancelled => "the job was cancelled",
            Self::TimedOut => "the job's time was up",
            Self::Stopped => "runner stopped",
        })
    }
}

/// A job's leash: its thread says what there is to hold on to, the main thread pulls.
pub(crate) struct Leash {
    plug: Plug,
    /// Cancels the start of its VM.
    cancellation: Cancellation,
    /// Ends what the job's thread fetches for its VM.
    stop: Stop,
    state: Mutex<Hold>,
}

#[derive(Default)]
struct Hold {
    /// The first reason stands.
    end: Option<End>,
    vm: Option<SandboxId>,
    agent: Option<Arc<dyn Execution>>,
    /// Whether the agent was killed.
    is_killed: bool,
}

impl Leash {
    pub(crate) fn new(plug: Plug) -> Self {
        Self { plug, cancellation: Cancellation::new(), stop: Stop::new(), state: Mutex::default() }
    }

    /// Cancels the start of the job's VM.
    pub(crate) fn cancellation(&self) -> &Cancellation {
        &self.cancellation
    }

    /// What ends requests for the VM's sake along with the job.
    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Asks the job to end.
    pub(crate) fn ask(&self, end: End) {
        let (vm, agent) = {
            let mut hold = self.lock();
            if hold.end.is_some() {
                return;
            }
            hold.end = Some(end);
            (hold.vm, hold.agent.clone())
        };
        match agent {
            Some(agent) => {
                signal(&*agent, Signal::SIGTERM);
            }
            None => self.pull(vm),
        }
    }

    /// Ends it at once: the agent first, and the VM if there is none or this is called again.
    pub(crate) fn force(&self, end: End) {
        let (vm, agent) = {
            let mut hold = self.lock();
            hold.end.get_or_insert(end);
            let is_killed = std::mem::replace(&mut hold.is_killed, true);
            (hold.vm, hold.agent.clone().filter(|_| !is_killed))
        };
        if !agent.is_some_and(|agent| signal(&*agent, Signal::SIGKILL)) {
            self.pull(vm);
        }
    }

    /// Why it was ended, if it was.
    pub(crate) fn end(&self) -> Option<End> {
        self.lock().end
    }

    /// An error if it was ended.
    pub(crate) fn check(&self) -> Result<()> {
        self.end().map_or(Ok(()), |end| Err(Error::Ended(end)))
    }

    /// There is a VM, or will be in a moment.
    pub(crate) fn hold_vm(&self, vm: SandboxId) -> Result<()> {
        self.lock().vm = Some(vm);
        self.check()
    }

    /// The agent runs.
    pub(crate) fn hold_agent(&self, agent: &Arc<dyn Execution>) -> Result<()> {
        self.lock().agent = Some(Arc::clone(agent));
        // Whoever pulled just before did not find it.
        self.check()
    }

    /// The agent has ended, and nothing is worth waiting for.
    pub(crate) fn let_go_of_agent(&self) {
        self.lock().agent = None;
    }

    /// There is no VM any more.
    pub(crate) fn let_go(&self) {
        let mut hold = self.lock();
        (hold.vm, hold.agent) = (None, None);
    }

    fn pull(&self, vm: Option<SandboxId>) {
        self.stop.signal();
        self.cancellation.cancel();
        if let Some(vm) = vm {
            (self.plug)(vm);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Hold> {
        // Nothing panics while it has the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the guest has accepted a signal for the agent.
fn signal(agent: &dyn Execution, signal: Signal) -> bool {
    let sent = agent.signal(signal as u8, Instant::now() + HEARD);
    if let Err(error) = &sent {
        log::debug!("the agent cannot be sent {signal}; error={error}");
    }
    sent.is_ok()
}

#[cfg(test)]
mod tests {
    use sandbox::fake::{Manner, Script};
    use sandbox::{ExecRequest, SandboxFactory as _};

    use super::*;

    fn leash() -> (Leash, Arc<Mutex<Vec<SandboxId>>>) {
        let pulled: Arc<Mutex<Vec<SandboxId>>> = Arc::default();
        let seen = Arc::clone(&pulled);
        (Leash::new(Arc::new(move |vm| seen.lock().unwrap().push(vm))), pulled)
    }

    #[test]
    fn a_job_without_an_agent_loses_its_vm_and_hears_why() {
        let (leash, pulled) = leash();
        let vm = SandboxId::random().unwrap();
        leash.hold_vm(vm).unwrap();
        leash.ask(End::Cancelled);
        leash.ask(End::Stopped);
        assert_eq!(*pulled.lock().unwrap(), [vm]);
        assert_eq!(leash.check().unwrap_err().to_string(), "the job was cancelled");
    }

    #[test]
    fn an_agent_is_killed_before_its_vm_loses_its_plug() {
        let factory = Script::default().hold("agent", Manner::Deaf).factory();
        let sandbox = factory
            .start(&crate::request::tests::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let request = ExecRequest { argv: vec!["agent".into()], ..ExecRequest::default() };
        let agent: Arc<dyn Execution> = sandbox.exec(&request, Instant::now()).unwrap().into();
        let (leash, pulled) = leash();
        leash.hold_vm(sandbox.id()).unwrap();
        leash.hold_agent(&agent).unwrap();

        leash.force(End::Stopped);
        assert_eq!(factory.record().signals, [Signal::SIGKILL as u8]);
        assert!(pulled.lock().unwrap().is_empty());
        leash.force(End::Stopped);

        assert_eq!(*pulled.lock().unwrap(), [sandbox.id()]);
        assert_eq!(factory.record().signals.len(), 1);
    }

    #[test]
    fn what_was_asked_before_there_was_anything_is_heard_with_the_first_hold() {
        let (leash, _) = leash();
        leash.ask(End::Stopped);
        assert!(leash.hold_vm(SandboxId::random().unwrap()).is_err());
    }
}
