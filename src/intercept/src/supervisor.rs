//! The thread `proxy`: keeps mitmdump running and registers VMs with it. It sleeps in one `poll`.
//!
//! ```text
//!          launch              ready: register all VMs, then serve
//!  down ───────────▶ starting ────────────────────────────────────────────▶ serving
//!    ▲                  │ time-out, or exit                                     │ exit, or a
//!    └── back-off ──────┴───────────────────────────────────────────────────────┘ protocol error
//! ```
//!
//! INVARIANT: a proxy accepts connections only from the VMs in `vms`.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::backoff::Backoff;
use base::error::chain;
use crossbeam_channel::{Receiver, Sender};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::credential::{CredentialError, CredentialRequest, CredentialWorkers};
use crate::handle::{Handle, ProxyRequest, RegisteredVm};
use crate::launch::{LaunchOptions, next_uid};
use crate::masked_log::MaskedLog;
use crate::message::{CredentialResponse, ProxyCommand, ProxyEvent};
use crate::observer::NamePolicy;
use crate::policy::Policy;
use crate::proxy::ProxyConfig;
use crate::proxy_process::{PendingCommand, Phase, ProxyProcess, duplicate};
use crate::{Error, Result};

/// The delays before a restart.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const MAX_DELAY: Duration = Duration::from_secs(10);
/// After this time of serving, a failure counts as the first.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// The state of the thread.
pub(crate) struct Supervisor {
    config: ProxyConfig,
    /// The proxy's user ID.
    uid: u32,
    listener: TcpListener,
    handle: Handle,
    requests: Receiver<ProxyRequest>,
    workers: CredentialWorkers,
    vms: BTreeMap<Ipv4Addr, RegisteredVm>,
    /// The logs of VMs whose connections are being closed.
    closing: BTreeMap<Ipv4Addr, Arc<MaskedLog>>,
    /// Registrations that wait until a proxy is ready.
    queue: Vec<(Ipv4Addr, Sender<Result<NamePolicy>>)>,
    state: ProxyState,
    backoff: Backoff,
    /// A proxy has been ready at least once.
    has_served: bool,
    /// The number of the last command.
    last: u64,
    is_stopping: bool,
}

enum ProxyState {
    Down { retry: Instant },
    Up(Box<ProxyProcess>),
}

impl Supervisor {
    pub(crate) fn new(
        config: ProxyConfig,
        listener: TcpListener,
        (handle, requests): (Handle, Receiver<ProxyRequest>),
    ) -> Result<Self> {
        Ok(Self {
            config,
            uid: next_uid(),
            listener,
            workers: CredentialWorkers::start(&handle)?,
            handle,
            requests,
            vms: BTreeMap::new(),
            closing: BTreeMap::new(),
            queue: Vec::new(),
            state: ProxyState::Down { retry: Instant::now() },
            backoff: Backoff::new(FIRST_DELAY, MAX_DELAY),
            has_served: false,
            last: 0,
            is_stopping: false,
        })
    }

    pub(crate) fn run(mut self) {
        while !self.is_stopping {
            self.start_if_due();
            if let Err(error) = self.sleep() {
                log::error!("the thread of the proxy stops: cannot poll; error={error}");
                return;
            }
            while let Ok(request) = self.requests.try_recv() {
                self.handle_request(request);
            }
            self.exchange();
        }
    }

    fn start_if_due(&mut self) {
        match self.state {
            ProxyState::Down { retry } if retry <= Instant::now() => {}
            _ => return,
        }
        // The filter must be in place before the process runs.
        let started = self.restrict(None).and_then(|()| duplicate(&self.listener));
        let started = started.and_then(|listener| {
            ProxyProcess::start(LaunchOptions {
                program: self.config.program.as_deref(),
                runtime_dir: &self.config.runtime_dir,
                authority: &self.config.authority,
                listener,
                roots: self.config.roots.as_deref(),
                uid: self.uid,
            })
        });
        match started {
            Ok(process) => self.state = ProxyState::Up(Box::new(process)),
            Err(error) => self.handle_failure(error),
        }
    }

    /// Sets the kernel's filter: the proxy may connect to the host's own sockets that the policies of the
    /// VMs open, including those of the VM to be registered.
    fn restrict(&self, next: Option<&RegisteredVm>) -> Result<()> {
        let policies = self.vms.values().chain(next).map(|guest| &guest.registration.policy);
        let sockets = policies.flat_map(Policy::host_sockets).collect();
        let restricted = self.config.host_filter.permit(self.uid, &sockets);
        restricted.map_err(|source| Error::HostFilter { source })
    }

    /// The one place where the thread sleeps.
    fn sleep(&self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(self.handle.event.as_fd(), PollFlags::POLLIN)];
        let deadline = match &self.state {
            ProxyState::Down { retry } => Some(*retry),
            ProxyState::Up(process) => {
                fds.extend(process.interests());
                match process.phase {
                    Phase::Starting { deadline } => Some(deadline),
                    Phase::Serving { .. } => None,
                }
            }
        };
        let timeout = deadline.map_or(PollTimeout::NONE, base::deadline::poll_timeout);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        self.handle.event.clear();
        Ok(())
    }

    fn exchange(&mut self) {
        let ProxyState::Up(process) = &mut self.state else { return };
        match process.exchange() {
            Ok(events) => events.into_iter().for_each(|event| self.handle_event(event)),
            Err(error) => return self.handle_failure(error),
        }
        // Send commands that the events have caused before sleeping.
        if let ProxyState::Up(process) = &mut self.state
            && let Err(error) = process.flush()
        {
            self.handle_failure(error);
        }
    }

    /// The proxy has failed. No traffic passes until the next one is ready.
    fn handle_failure(&mut self, error: Error) {
        let text = chain(&error);
        if let ProxyState::Up(process) = &mut self.state {
            if let Phase::Serving { since } = process.phase
                && since.elapsed() > STABLE_AFTER
            {
                self.backoff.reset();
            }
            self.closing.clear();
            for (_, pending) in process.pending.drain() {
                if let PendingCommand::Register(vm, reply) = pending {
                    self.queue.push((vm, reply));
                }
            }
        }
        self.state = ProxyState::Down { retry: Instant::now() + self.backoff.delay() };
        if self.has_served {
            log::error!(
                "the proxy failed, restarting; no traffic of VMs passes until then; error={text:?}"
            );
            return;
        }
        // If no proxy was ever ready, registrations fail rather than wait.
        log::warn!("the proxy does not start; error={text:?}");
        let mut error = Some(error);
        for (vm, reply) in self.queue.drain(..) {
            self.vms.remove(&vm);
            let same = || Error::ProxyFailed {
                problem: format!("does not start: {text}"),
                output: String::new(),
            };
            let _ = reply.send(Err(error.take().unwrap_or_else(same)));
        }
    }

    fn next_number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

impl Supervisor {
    fn handle_request(&mut self, request: ProxyRequest) {
        match request {
            ProxyRequest::Register { vm, guest, reply } => self.register(vm, *guest, reply),
            ProxyRequest::Unregister { vm, done } => self.unregister(vm, done),
            ProxyRequest::Credential { id, answer } => {
                let answer = match &answer {
                    Ok(credential) => CredentialResponse::Credential(credential),
                    Err(error) => CredentialResponse::Error(error),
                };
                // A restarted proxy does not know the number and ignores the response.
                if let ProxyState::Up(process) = &mut self.state {
                    ProxyCommand::Credential { id, answer }.write(&mut process.outbox);
                }
            }
            ProxyRequest::Stop => self.is_stopping = true,
        }
    }

    fn register(&mut self, vm: Ipv4Addr, guest: RegisteredVm, reply: Sender<Result<NamePolicy>>) {
        if self.vms.contains_key(&vm) {
            let _ = reply.send(Err(Error::AlreadyRegistered { address: vm }));
            return;
        }
        if guest.registration.policy.host_sockets().next().is_some()
            && let Err(error) = self.restrict(Some(&guest))
        {
            let _ = reply.send(Err(error));
            return;
        }
        let id = self.next_number();
        match &mut self.state {
            ProxyState::Up(process) if matches!(process.phase, Phase::Serving { .. }) => {
                ProxyCommand::Register { id, vm, registration: &guest.registration }
                    .write(&mut process.outbox);
                process.pending.insert(id, PendingCommand::Register(vm, reply));
            }
            _ => self.queue.push((vm, reply)),
        }
        self.vms.insert(vm, guest);
    }

    fn unregister(&mut self, vm: Ipv4Addr, done: Sender<()>) {
        self.queue.retain(|(queued, _)| *queued != vm);
        let Some(guest) = self.vms.remove(&vm) else { return };
        if guest.registration.policy.host_sockets().next().is_some()
            && let Err(error) = self.restrict(None)
        {
            log::error!(
                "cannot remove a VM's exceptions from the host filter; vm={vm} error={}",
                chain(&error)
            );
        }
        let id = self.next_number();
        if let ProxyState::Up(process) = &mut self.state
            && matches!(process.phase, Phase::Serving { .. })
        {
            ProxyCommand::Unregister { id, vm }.write(&mut process.outbox);
            process.pending.insert(id, PendingCommand::Unregister { vm, _done: done });
            self.closing.extend(guest.log.map(|log| (vm, log)));
        }
    }
}

impl Supervisor {
    fn handle_event(&mut self, event: ProxyEvent) {
        match event {
            ProxyEvent::Ready => self.register_all(),
            ProxyEvent::Done { id, error, names } => self.handle_done(id, error, names),
            ProxyEvent::Record { vm, entry } => {
                let log = self.vms.get(&vm).and_then(|guest| guest.log.as_ref());
                if let Some(log) = log.or_else(|| self.closing.get(&vm)) {
                    log.add(&entry);
                }
            }
            ProxyEvent::Credential { id, vm, api, force } => {
                self.request_credential(id, vm, api, force)
            }
        }
    }

    /// Registers all VMs with a new proxy, then lets it accept connections.
    fn register_all(&mut self) {
        let mut queue: BTreeMap<_, _> = self.queue.drain(..).collect();
        let ProxyState::Up(process) = &mut self.state else { return };
        for (vm, guest) in &self.vms {
            self.last += 1;
            ProxyCommand::Register { id: self.last, vm: *vm, registration: &guest.registration }
                .write(&mut process.outbox);
            let pending = match queue.remove(vm) {
                Some(reply) => PendingCommand::Register(*vm, reply),
                None => PendingCommand::Reregister(*vm),
            };
            process.pending.insert(self.last, pending);
        }
        self.last += 1;
        ProxyCommand::Serve { id: self.last }.write(&mut process.outbox);
        process.pending.insert(self.last, PendingCommand::Serve);
        process.phase = Phase::Serving { since: Instant::now() };
        log::info!("proxy ready; vms={}", self.vms.len());
    }

    fn handle_done(&mut self, id: u64, error: Option<String>, names: Option<NamePolicy>) {
        let ProxyState::Up(process) = &mut self.state else { return };
        let Some(pending) = process.pending.remove(&id) else { return };
        match (pending, error) {
            (PendingCommand::Register(_, reply), None) => {
                let _ = reply.send(Ok(names.unwrap_or_default()));
            }
            (PendingCommand::Register(vm, reply), Some(reason)) => {
                self.vms.remove(&vm);
                let _ = reply.send(Err(Error::PolicyRejected { address: vm, reason }));
            }
            (PendingCommand::Reregister(vm), Some(reason)) => {
                log::error!("a VM cannot be registered again; vm={vm} reason={reason:?}");
            }
            (PendingCommand::Serve, Some(reason)) => {
                let problem = format!("accepts no connections: {reason}");
                self.handle_failure(Error::ProxyFailed { problem, output: String::new() });
            }
            (PendingCommand::Unregister { vm, .. }, error) => {
                self.closing.remove(&vm);
                if let Some(reason) = error {
                    log::error!("cannot close a VM's connections; vm={vm} reason={reason:?}");
                }
            }
            (PendingCommand::Serve, None) => self.has_served = true,
            (PendingCommand::Reregister(_), None) => {}
        }
    }

    fn request_credential(&mut self, id: u64, vm: Ipv4Addr, api: usize, force: bool) {
        let credentials = self.vms.get(&vm).and_then(|guest| guest.credentials.clone());
        let none =
            || CredentialError { status: 424, reason: "no credentials are configured".to_owned() };
        let submitted = credentials.ok_or_else(none).and_then(|credentials| {
            self.workers.submit(CredentialRequest { id, vm, api, force, credentials })
        });
        if let Err(error) = submitted
            && let ProxyState::Up(process) = &mut self.state
        {
            let answer = CredentialResponse::Error(&error);
            ProxyCommand::Credential { id, answer }.write(&mut process.outbox);
        }
    }
}
