//! The resources of a running VM, owned by its thread.
//!
//! They are acquired in this order, and released in the reverse order after an orderly end, an error
//! half way, or a panic.
//!
//! 1. the network, leased from the pool, with its policy in force, its ports published, and the VM
//!    registered at its interceptor
//! 2. the folder, with the lock that proves its owner alive
//! 3. the cgroup
//! 4. the image's links and the disk
//! 5. the listener for the guest, so that its first attempt to dial succeeds
//! 6. the control socket
//! 7. the processes

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::error::chain;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use process::{Cgroup, Credentials, Status};
use sandbox::{Network, SandboxConfig, SandboxId};
use vsock_host::Reactor;

use crate::console::Capture;
use crate::disk::Growth;
use crate::error::file;
use crate::folder::Folder;
use crate::link::GuestLink;
use crate::network::Attachment;
use crate::reclaim::CGROUP_PARENT;
use crate::record::VmRecord;
use crate::start_request::StartRequest;
use crate::vmm::{Launch, Launched, Member, Remote};
use crate::{Error, Result, balloon, disk, limit};

/// How long killed processes may take to exit.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The first UID of VMs. Each VM has its own, so no VMM can touch another's files or processes.
const FIRST_UID: u32 = 0x7800_0000;
/// The size of the UID range. UIDs are derived from random ids; collisions on a host are rare.
const UIDS: u64 = 1 << 26;

/// A running VM. The fields are dropped in this order.
pub(crate) struct Machine {
    id: SandboxId,
    memory_mib: u32,
    cgroup: OwnedCgroup,
    pub(crate) members: Vec<Member>,
    pub(crate) console: Capture,
    pub(crate) errors: Capture,
    pub(crate) control: UnixListener,
    pub(crate) link: Arc<GuestLink>,
    /// The duration of each stage of the start.
    pub(crate) stages: Vec<(&'static str, Duration)>,
    remote: Box<dyn Remote>,
    is_parked: bool,
    pub(crate) growth: Growth,
    folder: Folder,
    network: Attachment,
}

impl Machine {
    pub(crate) fn start(request: &StartRequest) -> Result<Self> {
        let StartRequest { state, config, vmm, reactor, snapshot, deadline, .. } = request;
        let mut clock = StageClock::start();
        let uid = uid(config.id);
        let (mut network, published) = request.lease_network()?;
        clock.stage("network");
        let folder = Folder::create(state, request.record(published), uid)?;
        let cgroup = OwnedCgroup(make_cgroup(config.id)?);
        limit::apply(&cgroup.0, config, vmm.overhead_mib(), state)?;
        folder.link_image(&config.image)?;
        let template = match snapshot {
            None => config.image.disk_template.clone(),
            Some(snapshot) => {
                snapshot.link_into(folder.path())?;
                snapshot.disk()
            }
        };
        clock.stage("folder");
        let disk = folder.vmm_file("disk");
        let cloned = disk::clone(&template, &disk, uid)?;
        let growth = Growth::of(&disk).map_err(file("open", &disk))?;
        log::debug!("disk cloned; method={cloned:?}");
        clock.stage("disk");
        let link = Arc::new(GuestLink::new(listen(&folder, reactor, config.id)?));
        network.reach(link.ports());
        let control = bind_control(&folder)?;
        let credentials = Credentials { uid, gid: uid, groups: Vec::new() };
        let launch = Launch {
            folder: &folder,
            config,
            network: network.lease(),
            cgroup: &cgroup.0,
            credentials,
            is_restored: snapshot.is_some(),
            deadline: *deadline,
        };
        let launched = vmm.launch(&launch)?;
        log::debug!("vm launched; vm={}", config.id);
        clock.stage("launch");
        let Launched { monitor, helpers, remote, console, errors } = launched;
        Ok(Self {
            id: config.id,
            memory_mib: config.memory_mib,
            cgroup,
            members: std::iter::once(monitor).chain(helpers).collect(),
            console: Capture::new(console, &folder.path().join("console.log"))?,
            errors: Capture::new(errors, &folder.path().join("vmm.log"))?,
            control,
            link,
            stages: clock.stages,
            remote,
            is_parked: false,
            growth,
            folder,
            network,
        })
    }

    /// Applies `config` outside of the guest: network, record, memory, processors.
    pub(crate) fn assign(&mut self, config: &SandboxConfig, deadline: Instant) -> Result<()> {
        // Before the processors resume, so that the guest never runs with half a network.
        let published = match &config.network {
            Some(network) => self.network.assign(network, deadline)?,
            None => Vec::new(),
        };
        self.folder.record(|record| record.assign(config, published))?;
        if std::mem::take(&mut self.is_parked) {
            self.remote.resume(deadline)?;
            self.link.guest(deadline)?.release();
            balloon::deflate(self, deadline)?;
        }
        Ok(())
    }

    /// Undoes `assign`: closes the network, reclaims spare memory, pauses the processors.
    pub(crate) fn park(&mut self, deadline: Instant) -> Result<()> {
        self.network.close()?;
        self.folder.record(VmRecord::park)?;
        balloon::inflate(self, deadline)?;
        // Callers may still send; the guest gets it when it runs again.
        self.link.guest(deadline)?.hold(deadline).map_err(Error::Link)?;
        self.remote.pause(deadline)?;
        self.is_parked = true;
        Ok(())
    }

    /// Puts another policy in force while it runs. The network of a parked VM stays closed.
    pub(crate) fn set_network(&mut self, network: &Network) -> Result<()> {
        if self.is_parked { Ok(()) } else { self.network.set_policy(network) }
    }

    /// Saves the VM. It does not run afterwards.
    pub(crate) fn save(&mut self, deadline: Instant) -> Result<()> {
        self.remote.save(deadline)
    }

    pub(crate) fn memory_mib(&self) -> u32 {
        self.memory_mib
    }

    pub(crate) fn remote(&mut self) -> &mut dyn Remote {
        &mut *self.remote
    }

    /// Sleeps for `time`. If the VM ends meanwhile, that is the error.
    pub(crate) fn wait(&mut self, time: Duration) -> Result<()> {
        let pidfds = self.members.iter().map(|member| member.child.pidfd());
        let mut fds: Vec<_> = pidfds.map(|pidfd| PollFd::new(pidfd, PollFlags::POLLIN)).collect();
        match poll(&mut fds, process::poll_timeout(Instant::now() + time)) {
            Ok(0) | Err(Errno::EINTR) => return Ok(()),
            Ok(_) => {}
            Err(errno) => return Err(Error::Poll { source: errno.into() }),
        }
        match self.ended()? {
            Some(ended) => Err(self.explain(&ended)),
            None => Ok(()),
        }
    }

    /// The process that ended, if one has.
    pub(crate) fn ended(&mut self) -> Result<Option<Ended>> {
        for member in &self.members {
            if let Some(status) = member.child.try_wait().map_err(Error::Process)? {
                return Ok(Some(Ended { program: member.program, status }));
            }
        }
        Ok(None)
    }

    /// Why the VM ended, from its cgroup, console and standard errors.
    pub(crate) fn explain(&mut self, ended: &Ended) -> Error {
        let _ = self.console.drain();
        let _ = self.errors.drain();
        if let Some(reason) = limit::out_of_memory(&self.cgroup.0) {
            return Error::OutOfMemory { reason };
        }
        if let Some(reason) = self.console.boot_failure() {
            return Error::Boot { reason: reason.trim().to_owned() };
        }
        if self.console.ran_out_of_memory() {
            return Error::GuestOutOfMemory { memory_mib: self.memory_mib };
        }
        let output = self.errors.tail("it") + &self.console.tail("the console");
        Error::Ended { program: ended.program, status: ended.status, output }
    }
}

/// A process of a VM that has exited.
pub(crate) struct Ended {
    pub(crate) program: &'static str,
    pub(crate) status: Status,
}

impl Drop for Machine {
    fn drop(&mut self) {
        log::debug!("vm is taken down; vm={}", self.id);
        // First, so that calls that wait for the guest return.
        self.link.close();
    }
}

/// The VM's cgroup. Dropping it kills its processes and removes it.
struct OwnedCgroup(Cgroup);

impl Drop for OwnedCgroup {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy(Instant::now() + KILL_LIMIT) {
            log::error!("cannot remove a cgroup until the next start; error={}", chain(&error));
        }
    }
}

fn make_cgroup(id: SandboxId) -> Result<Cgroup> {
    let root = process::mount_point().map_err(Error::Process)?;
    let parent = root.join(CGROUP_PARENT);
    let cgroup = Cgroup::create(&parent, &id.to_string()).map_err(Error::Process)?;
    limit::prepare(&root, &parent);
    Ok(cgroup)
}

/// The socket to which the VMM connects when its guest dials the host.
fn listen(folder: &Folder, reactor: &Reactor, id: SandboxId) -> Result<vsock_host::Listener> {
    let path = folder.vmm_file(&format!("v.sock_{}", vsock_proto::PORT));
    let listener = reactor.listen(&path, id.to_string()).map_err(Error::Link)?;
    let uid = uid(id);
    chown(&path, Some(uid), Some(uid)).map_err(file("give away", &path))?;
    Ok(listener)
}

fn bind_control(folder: &Folder) -> Result<UnixListener> {
    // Through the descriptor: a socket's address has at most 108 bytes, the state folder's path more.
    let path = folder.vmm_file("../control.sock");
    let socket = UnixListener::bind(&path).map_err(file("listen on", &path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(file("protect", &path))?;
    socket.set_nonblocking(true).map_err(file("set up", &path))?;
    Ok(socket)
}

fn uid(id: SandboxId) -> u32 {
    FIRST_UID + (id.number() % UIDS) as u32
}

/// Measures the stages of a start.
struct StageClock {
    since: Instant,
    stages: Vec<(&'static str, Duration)>,
}

impl StageClock {
    fn start() -> Self {
        Self { since: Instant::now(), stages: Vec::new() }
    }

    fn stage(&mut self, name: &'static str) {
        let now = Instant::now();
        self.stages.push((name, now - std::mem::replace(&mut self.since, now)));
    }
}
