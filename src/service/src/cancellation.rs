//! Cancellation of a job by the main thread, while the job's thread waits for its VM.
//!
//! ```text
//!                 VM starts, files are written   the agent runs         the agent has ended
//!  cancel         kill the VM                    SIGTERM to the agent   –
//!  kill           kill the VM                    SIGKILL to the agent   –
//!  kill again     kill the VM                    kill the VM            –
//! ```
//!
//! An agent that is killed leaves the number of the last event that the platform acknowledged.
//!
//! The job's thread then gets an error from its VM or the exit of the agent, and reads the reason from
//! [`JobCancellation::reason`]. No function here waits for the job's end.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::sync::{Mutex, MutexGuard};
use nix::sys::signal::Signal;
use platform_client::RequestCancellation;
use sandbox::{Cancellation, Execution, SandboxId};

use crate::error::{Error, Result};

/// The limit for a guest to accept a signal. The main thread waits that long; a guest that does not read
/// is killed later.
const SIGNAL_TIMEOUT: Duration = Duration::from_millis(100);

/// Kills a VM in any phase of its life.
pub type KillVm = Arc<dyn Fn(SandboxId) + Send + Sync>;

/// Why the runner ends a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// A user cancelled it.
    Cancelled,
    /// It ran into its time limit.
    TimedOut,
    /// The runner stops.
    Stopped,
}

impl CancelReason {
    /// The exit code of a job that ended for this reason and reported none itself.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::TimedOut => 124,
            Self::Cancelled | Self::Stopped => 137,
        }
    }
}

impl fmt::Display for CancelReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Cancelled => "the job was cancelled",
            Self::TimedOut => "the job's time was up",
            Self::Stopped => "runner stopped",
        })
    }
}

/// The cancellation of one job. Its thread registers its VM and agent, the main thread cancels.
pub(crate) struct JobCancellation {
    kill_vm: KillVm,
    /// Cancels the start of the VM.
    vm_start: Cancellation,
    /// Ends downloads of the job's thread for its VM.
    stop: RequestCancellation,
    state: Mutex<CancellationState>,
}

#[derive(Default)]
struct CancellationState {
    /// The first reason stands.
    reason: Option<CancelReason>,
    vm: Option<SandboxId>,
    agent: Option<Arc<dyn Execution>>,
    /// Whether SIGKILL was sent to the agent.
    is_killed: bool,
}

impl JobCancellation {
    pub(crate) fn new(kill_vm: KillVm) -> Self {
        Self {
            kill_vm,
            vm_start: Cancellation::new(),
            stop: RequestCancellation::new(),
            state: Mutex::default(),
        }
    }

    /// Cancels the start of the job's VM.
    pub(crate) fn vm_start(&self) -> &Cancellation {
        &self.vm_start
    }

    /// Ends the HTTP requests that the job's thread makes for its VM.
    pub(crate) fn stop(&self) -> &RequestCancellation {
        &self.stop
    }

    /// Sends SIGTERM to the agent, or kills the VM if there is no agent. Only the first call has an effect.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        let (vm, agent) = {
            let mut state = self.state();
            if state.reason.is_some() {
                return;
            }
            state.reason = Some(reason);
            (state.vm, state.agent.clone())
        };
        match agent {
            Some(agent) => {
                signal(&*agent, Signal::SIGTERM);
            }
            None => self.kill_vm(vm),
        }
    }

    /// Sends SIGKILL to the agent. Kills the VM if there is no agent, or on a second call.
    pub(crate) fn kill(&self, reason: CancelReason) {
        let (vm, agent) = {
            let mut state = self.state();
            state.reason.get_or_insert(reason);
            let is_killed = std::mem::replace(&mut state.is_killed, true);
            (state.vm, state.agent.clone().filter(|_| !is_killed))
        };
        if !agent.is_some_and(|agent| signal(&*agent, Signal::SIGKILL)) {
            self.kill_vm(vm);
        }
    }

    /// Why the job was cancelled, if it was.
    pub(crate) fn reason(&self) -> Option<CancelReason> {
        self.state().reason
    }

    /// An error if the job was cancelled.
    pub(crate) fn check(&self) -> Result<()> {
        self.reason().map_or(Ok(()), |reason| Err(Error::Ended(reason)))
    }

    /// Registers the VM, before it starts. An error if the job was cancelled.
    pub(crate) fn set_vm(&self, vm: SandboxId) -> Result<()> {
        self.state().vm = Some(vm);
        self.check()
    }

    /// Registers the agent. An error if the job was cancelled.
    pub(crate) fn set_agent(&self, agent: &Arc<dyn Execution>) -> Result<()> {
        self.state().agent = Some(Arc::clone(agent));
        // A cancellation just before has not seen the agent.
        self.check()
    }

    /// Forgets the agent, which has ended.
    pub(crate) fn clear_agent(&self) {
        self.state().agent = None;
    }

    /// Forgets the VM and the agent, before the VM is parked or killed.
    pub(crate) fn clear(&self) {
        let mut state = self.state();
        (state.vm, state.agent) = (None, None);
    }

    fn kill_vm(&self, vm: Option<SandboxId>) {
        self.stop.cancel();
        self.vm_start.cancel();
        if let Some(vm) = vm {
            (self.kill_vm)(vm);
        }
    }

    fn state(&self) -> MutexGuard<'_, CancellationState> {
        self.state.lock()
    }
}

/// Sends a signal to the agent. Returns whether the guest accepted it.
fn signal(agent: &dyn Execution, signal: Signal) -> bool {
    let sent = agent.signal(signal as u8, Instant::now() + SIGNAL_TIMEOUT);
    if let Err(error) = &sent {
        log::debug!("cannot send {signal} to the agent; error={error}");
    }
    sent.is_ok()
}

#[cfg(test)]
mod tests {
    use sandbox::fake::{Manner, Script};
    use sandbox::{ExecRequest, SandboxFactory as _};

    use super::*;

    fn cancellation() -> (JobCancellation, Arc<Mutex<Vec<SandboxId>>>) {
        let killed: Arc<Mutex<Vec<SandboxId>>> = Arc::default();
        let seen = Arc::clone(&killed);
        (JobCancellation::new(Arc::new(move |vm| seen.lock().push(vm))), killed)
    }

    #[test]
    fn cancelling_a_job_without_an_agent_kills_its_vm_and_keeps_the_first_reason() {
        let (cancellation, killed) = cancellation();
        let vm = SandboxId::random().unwrap();
        cancellation.set_vm(vm).unwrap();
        cancellation.cancel(CancelReason::Cancelled);
        cancellation.cancel(CancelReason::Stopped);
        assert_eq!(*killed.lock(), [vm]);
        assert_eq!(cancellation.check().unwrap_err().to_string(), "the job was cancelled");
    }

    #[test]
    fn the_agent_is_killed_before_its_vm() {
        let factory = Script::default().hold("agent", Manner::Deaf).factory();
        let sandbox = factory
            .start(&sandbox::fake::config(), &sandbox::Cancellation::new(), Instant::now())
            .unwrap();
        let request = ExecRequest { argv: vec!["agent".into()], ..ExecRequest::default() };
        let agent: Arc<dyn Execution> = sandbox.exec(&request, Instant::now()).unwrap().into();
        let (cancellation, killed) = cancellation();
        cancellation.set_vm(sandbox.id()).unwrap();
        cancellation.set_agent(&agent).unwrap();

        cancellation.kill(CancelReason::Stopped);
        assert_eq!(factory.record().signals, [Signal::SIGKILL as u8]);
        assert!(killed.lock().is_empty());
        cancellation.kill(CancelReason::Stopped);

        assert_eq!(*killed.lock(), [sandbox.id()]);
        assert_eq!(factory.record().signals.len(), 1);
    }

    #[test]
    fn a_job_that_is_cancelled_before_its_vm_starts_fails_to_register_it() {
        let (cancellation, _) = cancellation();
        cancellation.cancel(CancelReason::Stopped);
        assert!(cancellation.set_vm(SandboxId::random().unwrap()).is_err());
    }
}
