//! The thread `proxy`: keeps mitmdump running and tells it who may send. It sleeps in one `poll`.
//!
//! ```text
//!          launch              ready: it is told of all VMs, then to serve
//!  down ───────────▶ starting ────────────────────────────────────────────▶ serving
//!    ▲                  │ late, or it ends                                      │ it ends, or is
//!    └── a pause, ever ─┴───────────────────────────────────────────────────────┘ not understood
//!        longer
//! ```
//!
//! INVARIANT: a proxy lets in only what is in `vms`.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::credential::{Desk, Question, Refusal};
use crate::error::chain;
use crate::launch::{Launch, next_uid};
use crate::link::{Link, Phase, duplicate};
use crate::masked::MaskedRecord;
use crate::message::{Answer, Order, Report};
use crate::policy::Policy;
use crate::proxy::{Admitted, Config, Handle, Request};
use crate::watch::Names;
use crate::{Error, Result};

pub(crate) const THREAD: &str = "proxy";

/// The pauses between attempts to start it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A proxy that has served so long may fail as if for the first time.
const GOOD_WHILE: Duration = Duration::from_secs(60);

/// The thread's own.
pub(crate) struct Supervisor {
    config: Config,
    /// The proxy's user ID.
    uid: u32,
    listener: TcpListener,
    handle: Handle,
    requests: Receiver<Request>,
    desk: Desk,
    vms: BTreeMap<Ipv4Addr, Admitted>,
    /// The records of those whose connections are being closed.
    leaving: BTreeMap<Ipv4Addr, Arc<MaskedRecord>>,
    /// Who waits for a proxy to become ready.
    queue: Vec<(Ipv4Addr, Sender<Result<Names>>)>,
    state: State,
    pause: Duration,
    /// Whether a proxy has ever been ready.
    has_served: bool,
    last: u64,
    is_stopping: bool,
}

enum State {
    Down { retry: Instant },
    Up(Box<Link>),
}

/// Who waits for an answer.
pub(crate) enum Waiting {
    Register(Ipv4Addr, Sender<Result<Names>>),
    /// Of one that was known to the proxy before this one.
    Again(Ipv4Addr),
    Unregister {
        vm: Ipv4Addr,
        _done: Sender<()>,
    },
    Serve,
}

/// How it lives.
impl Supervisor {
    pub(crate) fn new(
        config: Config,
        listener: TcpListener,
        (handle, requests): (Handle, Receiver<Request>),
    ) -> Result<Self> {
        Ok(Self {
            config,
            uid: next_uid(),
            listener,
            desk: Desk::open(&handle)?,
            handle,
            requests,
            vms: BTreeMap::new(),
            leaving: BTreeMap::new(),
            queue: Vec::new(),
            state: State::Down { retry: Instant::now() },
            pause: FIRST_PAUSE,
            has_served: false,
            last: 0,
            is_stopping: false,
        })
    }

    pub(crate) fn run(mut self) {
        while !self.is_stopping {
            self.start_if_due();
            if let Err(error) = self.sleep() {
                log::error!("the proxy cannot be watched; error={error}");
                return;
            }
            while let Ok(request) = self.requests.try_recv() {
                self.obey(request);
            }
            self.converse();
        }
    }

    fn start_if_due(&mut self) {
        match self.state {
            State::Down { retry } if retry <= Instant::now() => {}
            _ => return,
        }
        // Before there is a process that it is for.
        let started = self.restrict(None).and_then(|()| duplicate(&self.listener));
        let started = started.and_then(|listener| {
            Link::start(Launch {
                program: self.config.program.as_deref(),
                runtime_dir: &self.config.runtime_dir,
                authority: &self.config.authority,
                listener,
                roots: self.config.roots.as_deref(),
                uid: self.uid,
            })
        });
        match started {
            Ok(link) => self.state = State::Up(Box::new(link)),
            Err(error) => self.fall(error),
        }
    }

    /// Keeps the proxy from the host's own addresses, but for what the policies of all VMs open, and of
    /// one that is to be let in.
    fn restrict(&self, next: Option<&Admitted>) -> Result<()> {
        let policies = self.vms.values().chain(next).map(|guest| &guest.pass.policy);
        let sockets = policies.flat_map(Policy::host_sockets).collect();
        let restricted = self.config.host_filter.permit(self.uid, &sockets);
        restricted.map_err(|source| Error::HostFilter { source })
    }

    /// The one place where the thread sleeps.
    fn sleep(&self) -> io::Result<()> {
        let mut fds = vec![PollFd::new(self.handle.waker.as_fd(), PollFlags::POLLIN)];
        let deadline = match &self.state {
            State::Down { retry } => Some(*retry),
            State::Up(link) => {
                fds.extend(link.interests());
                match link.phase {
                    Phase::Starting { deadline } => Some(deadline),
                    Phase::Serving { .. } => None,
                }
            }
        };
        let timeout = deadline.map_or(PollTimeout::NONE, process::poll_timeout);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        match self.handle.waker.read() {
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn converse(&mut self) {
        let State::Up(link) = &mut self.state else { return };
        match link.converse() {
            Ok(reports) => reports.into_iter().for_each(|report| self.hear(report)),
            Err(error) => return self.fall(error),
        }
        // What was answered just now need not wait for the next turn.
        if let State::Up(link) = &mut self.state
            && let Err(error) = link.flush()
        {
            self.fall(error);
        }
    }

    /// There is no proxy, or no more: nothing passes until there is another.
    fn fall(&mut self, error: Error) {
        let text = chain(&error);
        if let State::Up(link) = &mut self.state {
            if let Phase::Serving { since } = link.phase
                && since.elapsed() > GOOD_WHILE
            {
                self.pause = FIRST_PAUSE;
            }
            self.leaving.clear();
            for (_, waiting) in link.waiting.drain() {
                if let Waiting::Register(vm, reply) = waiting {
                    self.queue.push((vm, reply));
                }
            }
        }
        let pause = self.pause;
        self.state = State::Down { retry: Instant::now() + pause };
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        if self.has_served {
            log::error!("no traffic of vms passes until the proxy runs again; error={text:?}");
            return;
        }
        // One that never ran need not be waited for.
        log::warn!("the proxy does not start; error={text:?}");
        let mut error = Some(error);
        for (vm, reply) in self.queue.drain(..) {
            self.vms.remove(&vm);
            let again =
                || Error::Down { problem: format!("does not start: {text}"), words: String::new() };
            let _ = reply.send(Err(error.take().unwrap_or_else(again)));
        }
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }
}

/// What it is asked for.
impl Supervisor {
    fn obey(&mut self, request: Request) {
        match request {
            Request::Register { vm, guest, reply } => self.register(vm, *guest, reply),
            Request::Unregister { vm, done } => self.unregister(vm, done),
            Request::Credential { id, answer } => {
                let answer = match &answer {
                    Ok(grant) => Answer::Grant(grant),
                    Err(refusal) => Answer::Refusal(refusal),
                };
                // A proxy after that one does not know the number, and ignores it.
                if let State::Up(link) = &mut self.state {
                    Order::Credential { id, answer }.write(&mut link.outbox);
                }
            }
            Request::Stop => self.is_stopping = true,
        }
    }

    fn register(&mut self, vm: Ipv4Addr, guest: Admitted, reply: Sender<Result<Names>>) {
        if self.vms.contains_key(&vm) {
            let _ = reply.send(Err(Error::Taken { address: vm }));
            return;
        }
        if guest.pass.policy.host_sockets().next().is_some()
            && let Err(error) = self.restrict(Some(&guest))
        {
            let _ = reply.send(Err(error));
            return;
        }
        let id = self.next();
        match &mut self.state {
            State::Up(link) if matches!(link.phase, Phase::Serving { .. }) => {
                Order::Register { id, vm, pass: &guest.pass }.write(&mut link.outbox);
                link.waiting.insert(id, Waiting::Register(vm, reply));
            }
            _ => self.queue.push((vm, reply)),
        }
        self.vms.insert(vm, guest);
    }

    fn unregister(&mut self, vm: Ipv4Addr, done: Sender<()>) {
        self.queue.retain(|(queued, _)| *queued != vm);
        let Some(guest) = self.vms.remove(&vm) else { return };
        if guest.pass.policy.host_sockets().next().is_some()
            && let Err(error) = self.restrict(None)
        {
            log::error!("a vm's exceptions stay; vm={vm} error={}", chain(&error));
        }
        let id = self.next();
        if let State::Up(link) = &mut self.state
            && matches!(link.phase, Phase::Serving { .. })
        {
            Order::Unregister { id, vm }.write(&mut link.outbox);
            link.waiting.insert(id, Waiting::Unregister { vm, _done: done });
            self.leaving.extend(guest.record.map(|record| (vm, record)));
        }
    }
}

/// What the proxy says.
impl Supervisor {
    fn hear(&mut self, report: Report) {
        match report {
            Report::Ready => self.introduce(),
            Report::Done { id, error, names } => self.done(id, error, names),
            Report::Record { vm, entry } => {
                let here = self.vms.get(&vm).and_then(|guest| guest.record.as_ref());
                if let Some(record) = here.or_else(|| self.leaving.get(&vm)) {
                    record.add(&entry);
                }
            }
            Report::Credential { id, vm, api, force } => self.ask(id, vm, api, force),
        }
    }

    /// Tells a new proxy of all VMs, and lets it take connections then.
    fn introduce(&mut self) {
        let mut queue: BTreeMap<_, _> = self.queue.drain(..).collect();
        let State::Up(link) = &mut self.state else { return };
        for (vm, guest) in &self.vms {
            self.last += 1;
            Order::Register { id: self.last, vm: *vm, pass: &guest.pass }.write(&mut link.outbox);
            let waiting = match queue.remove(vm) {
                Some(reply) => Waiting::Register(*vm, reply),
                None => Waiting::Again(*vm),
            };
            link.waiting.insert(self.last, waiting);
        }
        self.last += 1;
        Order::Serve { id: self.last }.write(&mut link.outbox);
        link.waiting.insert(self.last, Waiting::Serve);
        link.phase = Phase::Serving { since: Instant::now() };
        log::info!("proxy ready; vms={}", self.vms.len());
    }

    fn done(&mut self, id: u64, error: Option<String>, names: Option<Names>) {
        let State::Up(link) = &mut self.state else { return };
        let Some(waiting) = link.waiting.remove(&id) else { return };
        match (waiting, error) {
            (Waiting::Register(_, reply), None) => {
                let _ = reply.send(Ok(names.unwrap_or_default()));
            }
            (Waiting::Register(vm, reply), Some(reason)) => {
                self.vms.remove(&vm);
                let _ = reply.send(Err(Error::Refused { address: vm, reason }));
            }
            (Waiting::Again(vm), Some(reason)) => {
                log::error!("a vm is not let in any more; vm={vm} reason={reason:?}");
            }
            (Waiting::Serve, Some(reason)) => {
                let problem = format!("takes no connections: {reason}");
                self.fall(Error::Down { problem, words: String::new() });
            }
            (Waiting::Unregister { vm, .. }, error) => {
                self.leaving.remove(&vm);
                if let Some(reason) = error {
                    log::error!("a vm's connections do not end; vm={vm} reason={reason:?}");
                }
            }
            (Waiting::Serve, None) => self.has_served = true,
            (Waiting::Again(_), None) => {}
        }
    }

    fn ask(&mut self, id: u64, vm: Ipv4Addr, api: usize, force: bool) {
        let credentials = self.vms.get(&vm).and_then(|guest| guest.credentials.clone());
        let none = || Refusal { status: 424, reason: "nobody knows credentials".to_owned() };
        let asked = credentials
            .ok_or_else(none)
            .and_then(|credentials| self.desk.ask(Question { id, vm, api, force, credentials }));
        if let Err(refusal) = asked
            && let State::Up(link) = &mut self.state
        {
            let answer = Answer::Refusal(&refusal);
            Order::Credential { id, answer }.write(&mut link.outbox);
        }
    }
}
