//! A running VM, as its owner in this process sees it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use sandbox::{
    ExecRequest, Execution, Sandbox, SandboxConfig, SandboxId, StartReport, TreeReader, TreeWriter,
    WriteRequest,
};
use serde_bytes::ByteBuf;
use vsock_host::Guest;
use vsock_proto::GuestState;

use crate::error::chain;
use crate::fate::Explainer;
use crate::link::Link;
use crate::supervisor::{Deed, Started, Supervisor, Task};
use crate::{Error, Result, session};

/// How long the end of a VM in which something failed may take to be seen.
const DEATH: Duration = Duration::from_secs(1);

/// A running VM. Dropping it ends it at once.
pub(crate) struct Vm {
    id: SandboxId,
    link: Arc<Link>,
    explainer: Explainer,
    report: StartReport,
    supervisor: Supervisor,
}

impl Vm {
    /// Starts one that is nobody's yet.
    pub(crate) fn prepare(task: Task) -> Result<Self> {
        Self::launch(Task { is_warm: true, ..task })
    }

    /// Starts one, and waits for its guest. It takes commands when that has its state.
    fn launch(task: Task) -> Result<Self> {
        let (id, deadline, waited) = (task.config.id, task.deadline, task.waited);
        let arrival = if task.snapshot.is_some() { "reconnect" } else { "boot" };
        let (supervisor, Started { link, mut stages }) = Supervisor::start(task)?;
        stages.insert(0, ("gate", waited));
        let booted = Instant::now();
        let guest = match link.guest(deadline) {
            Ok(guest) => guest,
            Err(error) => return Err(no_guest(supervisor, error)),
        };
        stages.push((arrival, booted.elapsed()));
        let report = StartReport { kernel: guest.ready().kernel.clone(), stages };
        let explainer = Explainer::of(supervisor.fate());
        Ok(Self { id, link, explainer, report, supervisor })
    }

    /// Starts one that takes commands.
    pub(crate) fn start(task: Task) -> Result<Self> {
        let (config, deadline) = (task.config.clone(), task.deadline);
        let mut vm = Self::launch(task)?;
        let told = Instant::now();
        if let Err(error) = vm.introduce(&config, deadline) {
            return Err(no_guest(vm.supervisor, error));
        }
        vm.report.stages.push(("state", told.elapsed()));
        for (stage, time) in &vm.report.stages {
            log::debug!("vm start; vm={} stage={stage} us={}", vm.id, time.as_micros());
        }
        Ok(vm)
    }

    /// Tells the guest what makes it differ from every other.
    fn introduce(&self, config: &SandboxConfig, deadline: Instant) -> Result<()> {
        let guest = self.guest(deadline)?;
        let state = GuestState { clock_unix_ns: unix_time_ns(), ..initial_state(config)? };
        guest.set_state(state, deadline).map_err(Error::Link)
    }

    fn order(&self, deed: Deed, deadline: Instant) -> Result<()> {
        self.supervisor.order(deed, deadline)
    }

    /// Writes what it is to its monitor's folder; it does not run any more.
    pub(crate) fn save(&self, deadline: Instant) -> Result<()> {
        self.order(Deed::Save, deadline)
    }

    /// Why something failed: if the VM ended of it, then that.
    pub(crate) fn fail(self, error: Error) -> Error {
        let _ = self.supervisor.done().recv_timeout(DEATH);
        self.supervisor.stop().err().unwrap_or(error)
    }

    pub(crate) fn guest(&self, deadline: Instant) -> Result<Guest> {
        self.link.guest(deadline)
    }

    fn shut_down(&self, deadline: Instant) -> Result<()> {
        self.guest(deadline)?.shutdown(deadline).map_err(Error::Link)?;
        match self.supervisor.done().recv_deadline(deadline) {
            Err(RecvTimeoutError::Timeout) => Err(Error::StillThere { id: self.id }),
            _ => Ok(()),
        }
    }
}

/// The guest did not come: the supervisor may know why.
fn no_guest(supervisor: Supervisor, error: Error) -> Error {
    match (supervisor.stop(), error) {
        (Err(reason), _) => reason,
        (Ok(console), Error::Link(source)) => Error::NoHello { console, source },
        (Ok(_), error) => error,
    }
}

/// What makes this guest differ from every other, but for the time.
fn initial_state(config: &SandboxConfig) -> Result<GuestState> {
    let random: [u8; 48] = random()?;
    let (entropy, machine_id) = random.split_at(32);
    Ok(GuestState {
        clock_unix_ns: None,
        entropy: ByteBuf::from(entropy),
        hostname: Some(config.hostname.clone()),
        timezone: config.timezone.clone(),
        machine_id: machine_id.try_into().ok(),
        authority: config
            .network
            .as_ref()
            .and_then(|network| network.intercept.as_ref())
            .map(|interceptor| interceptor.certificate().to_owned()),
        host_authorities: config.host_authorities.clone(),
    })
}

fn unix_time_ns() -> Option<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(now.as_nanos()).ok()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut urandom| urandom.read_exact(&mut bytes))
        .map_err(|source| Error::Entropy { source })?;
    Ok(bytes)
}

impl Sandbox for Vm {
    fn id(&self) -> SandboxId {
        self.id
    }

    fn start_report(&self) -> &StartReport {
        &self.report
    }

    fn exec(
        &self,
        request: &ExecRequest,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn Execution>> {
        session::exec(self.guest(deadline), &self.explainer, request, deadline)
    }

    fn write(
        &self,
        request: &WriteRequest,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn TreeWriter>> {
        session::write(self.guest(deadline), &self.explainer, request, deadline)
    }

    fn read(&self, path: &Path, deadline: Instant) -> sandbox::Result<Box<dyn TreeReader>> {
        session::read(self.guest(deadline), &self.explainer, path, deadline)
    }

    fn assign(&self, config: &SandboxConfig, deadline: Instant) -> sandbox::Result<()> {
        let assigned = self.order(Deed::Assign(Box::new(config.clone())), deadline);
        assigned.and_then(|()| self.introduce(config, deadline)).map_err(|error| {
            sandbox::Error::Assign { id: self.id.to_string(), source: error.into() }
        })
    }

    fn park(&self, deadline: Instant) -> sandbox::Result<()> {
        self.order(Deed::Park, deadline)
            .map_err(|error| sandbox::Error::Park { id: self.id.to_string(), source: error.into() })
    }

    fn ended(&self) -> Receiver<()> {
        self.supervisor.done().clone()
    }

    fn stop(self: Box<Self>, deadline: Instant) -> sandbox::Result<()> {
        if let Err(error) = self.shut_down(deadline) {
            log::warn!("vm is ended by force; vm={} reason={}", self.id, chain(&error));
        }
        self.kill()
    }

    fn kill(self: Box<Self>) -> sandbox::Result<()> {
        let id = self.id.to_string();
        match self.supervisor.stop() {
            // It ended by itself before or after it was asked to: that is what was wanted.
            Ok(_) | Err(Error::Ended { .. } | Error::Boot { .. }) => Ok(()),
            Err(error) => Err(sandbox::Error::Stop { id, source: error.into() }),
        }
    }
}
