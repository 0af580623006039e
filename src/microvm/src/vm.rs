//! A running VM: the owner's handle in this process.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base::error::chain;
use crossbeam_channel::{Receiver, RecvTimeoutError};
use sandbox::{
    ExecRequest, Execution, Network, Sandbox, SandboxConfig, SandboxId, StartReport, TreeReader,
    TreeWriter, WriteRequest,
};
use serde_bytes::ByteBuf;
use vsock_host::Guest;
use vsock_proto::GuestState;

use crate::exit_reason::ErrorContext;
use crate::link::GuestLink;
use crate::start_request::{Purpose, StartRequest};
use crate::supervisor::{Started, Supervisor, VmCommand};
use crate::{Error, Result, page_cache, session};

/// How long to wait for the end of a VM in which something failed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// A running VM. Dropping it ends it at once.
pub(crate) struct Vm {
    id: SandboxId,
    link: Arc<GuestLink>,
    errors: ErrorContext,
    report: StartReport,
    supervisor: Supervisor,
}

impl Vm {
    /// Starts a warm VM, to be assigned later.
    pub(crate) fn prepare(request: StartRequest) -> Result<Self> {
        let deadline = request.deadline;
        let vm = Self::launch(StartRequest { purpose: Purpose::Warm, ..request })?;
        page_cache::fill(&vm, deadline)?;
        Ok(vm)
    }

    /// Starts a VM, and waits for its guest. It takes commands once the guest has its state.
    fn launch(request: StartRequest) -> Result<Self> {
        let (id, deadline, queued) = (request.config.id, request.deadline, request.queued);
        let arrival = if request.snapshot.is_some() { "reconnect" } else { "boot" };
        let (supervisor, Started { link, mut stages }) = Supervisor::start(request)?;
        stages.insert(0, ("queue", queued));
        let booted = Instant::now();
        let guest = match link.guest(deadline) {
            Ok(guest) => guest,
            Err(error) => return Err(start_error(supervisor, error)),
        };
        stages.push((arrival, booted.elapsed()));
        let report = StartReport { kernel: guest.ready().kernel.clone(), stages };
        let errors = ErrorContext::owned(supervisor.exit_reason());
        Ok(Self { id, link, errors, report, supervisor })
    }

    /// Starts a VM that takes commands.
    pub(crate) fn start(request: StartRequest) -> Result<Self> {
        let (config, deadline) = (request.config.clone(), request.deadline);
        let mut vm = Self::launch(request)?;
        let begun = Instant::now();
        if let Err(error) = vm.set_state(&config, deadline) {
            return Err(start_error(vm.supervisor, error));
        }
        vm.report.stages.push(("state", begun.elapsed()));
        for (stage, time) in &vm.report.stages {
            log::debug!("vm start; vm={} stage={stage} us={}", vm.id, time.as_micros());
        }
        Ok(vm)
    }

    /// Sends the guest its state: time, randomness, host name, time zone, machine id.
    fn set_state(&self, config: &SandboxConfig, deadline: Instant) -> Result<()> {
        let guest = self.guest(deadline)?;
        let state = GuestState { clock_unix_ns: unix_time_ns(), ..initial_state(config)? };
        guest.set_state(state, deadline).map_err(Error::Link)
    }

    /// Writes its state and memory to the monitor's folder. It does not run afterwards.
    pub(crate) fn save(&self, deadline: Instant) -> Result<()> {
        self.supervisor.request(VmCommand::Save, deadline)
    }

    /// Why something failed: the reason why the VM ended, if it has ended.
    pub(crate) fn fail(self, error: Error) -> Error {
        let _ = self.supervisor.done().recv_timeout(EXIT_TIMEOUT);
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

/// Why a start failed: the reason why the VM ended, if it has ended.
fn start_error(supervisor: Supervisor, error: Error) -> Error {
    match (supervisor.stop(), error) {
        (Err(reason), _) => reason,
        (Ok(console), Error::Link(source)) => Error::NoHello { console, source },
        (Ok(_), error) => error,
    }
}

/// What is particular to this guest, except for the time.
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
        session::exec(self.guest(deadline), &self.errors, request, deadline)
    }

    fn write(
        &self,
        request: &WriteRequest,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn TreeWriter>> {
        session::write(self.guest(deadline), &self.errors, request, deadline)
    }

    fn read(&self, path: &Path, deadline: Instant) -> sandbox::Result<Box<dyn TreeReader>> {
        session::read(self.guest(deadline), &self.errors, path, deadline)
    }

    fn connect(&self, port: u16, deadline: Instant) -> sandbox::Result<UnixStream> {
        session::connect(self.guest(deadline), &self.errors, port, deadline)
    }

    fn assign(&self, config: &SandboxConfig, deadline: Instant) -> sandbox::Result<()> {
        let command = VmCommand::Assign(Box::new(config.clone()));
        let assigned = self.supervisor.request(command, deadline);
        assigned.and_then(|()| self.set_state(config, deadline)).map_err(|error| {
            sandbox::Error::Assign { id: self.id.to_string(), source: error.into() }
        })
    }

    fn park(&self, deadline: Instant) -> sandbox::Result<()> {
        self.supervisor
            .request(VmCommand::Park, deadline)
            .map_err(|error| sandbox::Error::Park { id: self.id.to_string(), source: error.into() })
    }

    fn set_network(&self, network: &Network, deadline: Instant) -> sandbox::Result<()> {
        let command = VmCommand::SetNetwork(Box::new(network.clone()));
        self.supervisor.request(command, deadline).map_err(|error| sandbox::Error::SetNetwork {
            id: self.id.to_string(),
            source: error.into(),
        })
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
            // It ended by itself, which is what was wanted.
            Ok(_) | Err(Error::Ended { .. } | Error::Boot { .. }) => Ok(()),
            Err(error) => Err(sandbox::Error::Stop { id, source: error.into() }),
        }
    }
}
