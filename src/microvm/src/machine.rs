//! All that a running VM consists of, owned by its thread.
//!
//! It comes in this order and goes in the reverse one, whatever made it go: an orderly end, an
//! error half way, or a panic.
//!
//! 1. the network, leased of the pool, with the policy in force and the ports published; whoever
//!    intercepts it has let the VM in
//! 2. the folder, with the lock that proves its owner alive
//! 3. the cgroup
//! 4. the image's links and the disk
//! 5. the listener for the guest, so that its first attempt to dial succeeds
//! 6. the control socket
//! 7. the processes

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netns::{Lease, Pool};
use process::{Cgroup, Credentials, Status};
use sandbox::{Interception, Network, Pass, Publish, SandboxConfig, SandboxId};
use vsock_host::Reactor;

use crate::console::Capture;
use crate::error::{chain, file};
use crate::folder::Folder;
use crate::link::Link;
use crate::reclaim::CGROUP_PARENT;
use crate::record::VmRecord;
use crate::snapshot::Snapshot;
use crate::vmm::{Launch, Launched, Member, Vmm};
use crate::{Error, Result, disk, limit};

/// How long killed processes may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The users that VMs run as: one each, so that no VMM can touch another's files or processes.
const FIRST_UID: u32 = 0x7800_0000;
/// So many that two VMs of a host hardly ever get the same one by chance.
const UIDS: u64 = 1 << 26;

/// What a VM is made from.
pub(crate) struct Blueprint<'a> {
    pub(crate) state: &'a Path,
    pub(crate) config: &'a SandboxConfig,
    pub(crate) vmm: &'a dyn Vmm,
    pub(crate) reactor: &'a Reactor,
    pub(crate) networks: Option<&'a Pool>,
    /// What it goes on from, if it is not to boot.
    pub(crate) snapshot: Option<&'a Snapshot>,
    pub(crate) deadline: Instant,
}

/// The fields go in this order.
pub(crate) struct Machine {
    id: SandboxId,
    cgroup: OwnedCgroup,
    pub(crate) members: Vec<Member>,
    pub(crate) console: Capture,
    pub(crate) errors: Capture,
    pub(crate) control: UnixListener,
    pub(crate) link: Arc<Link>,
    /// How long each step took.
    pub(crate) stages: Vec<(&'static str, Duration)>,
    _folder: Folder,
    _pass: Option<Box<dyn Pass>>,
    _network: Option<Lease>,
}

impl Machine {
    pub(crate) fn start(blueprint: &Blueprint<'_>) -> Result<Self> {
        let Blueprint { state, config, vmm, reactor, networks, snapshot, deadline } = *blueprint;
        let mut clock = Clock::start();
        let uid = uid(config.id);
        let network = Leased::of(networks, config.network.as_ref(), deadline)?;
        clock.stage("network");
        let record = VmRecord::new(config, vmm.kind(), network.published);
        let folder = Folder::create(state, record, uid)?;
        let cgroup = OwnedCgroup(make_cgroup(config.id)?);
        limit::apply(&cgroup.0, config, vmm.overhead_mib())?;
        folder.link_image(&config.image)?;
        let template = match snapshot {
            None => config.image.disk_template.clone(),
            Some(snapshot) => {
                folder.link_snapshot(snapshot)?;
                snapshot.disk()
            }
        };
        clock.stage("folder");
        let cloned = disk::clone(&template, &folder.vmm_file("disk"), uid)?;
        log::debug!("disk cloned; how={cloned:?}");
        clock.stage("disk");
        let link = Arc::new(Link::new(listen(&folder, reactor, uid)?));
        let control = bind_control(&folder)?;
        let credentials = Credentials { uid, gid: uid, groups: Vec::new() };
        let (network, pass) = (network.lease, network.pass);
        let launch = Launch {
            folder: &folder,
            config,
            network: network.as_ref(),
            cgroup: &cgroup.0,
            credentials,
            is_restored: snapshot.is_some(),
            deadline,
        };
        let launched = vmm.launch(&launch)?;
        log::debug!("vm launched; vm={}", config.id);
        clock.stage("launch");
        let Launched { monitor, helpers, console, errors } = launched;
        Ok(Self {
            id: config.id,
            cgroup,
            members: std::iter::once(monitor).chain(helpers).collect(),
            console: Capture::new(console, &folder.path().join("console.log"))?,
            errors: Capture::new(errors, &folder.path().join("vmm.log"))?,
            control,
            link,
            stages: clock.stages,
            _folder: folder,
            _pass: pass,
            _network: network,
        })
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

    /// Why a VM is no more, from its last words.
    pub(crate) fn explain(&mut self, ended: &Ended) -> Error {
        let _ = self.console.take();
        let _ = self.errors.take();
        if let Some(reason) = limit::out_of_memory(&self.cgroup.0) {
            return Error::OutOfMemory { reason };
        }
        if let Some(reason) = self.console.boot_failure() {
            return Error::Boot { reason: reason.trim().to_owned() };
        }
        let words = self.errors.last_words("it") + &self.console.last_words("the console");
        Error::Ended { program: ended.program, status: ended.status, words }
    }
}

/// What a VM has of the pool of networks.
#[derive(Default)]
struct Leased {
    /// Of whoever intercepts it; it goes before the lease.
    pass: Option<Box<dyn Pass>>,
    lease: Option<Lease>,
    published: Vec<Publish>,
}

impl Leased {
    fn of(pool: Option<&Pool>, wanted: Option<&Network>, deadline: Instant) -> Result<Self> {
        let Some(wanted) = wanted else { return Ok(Self::default()) };
        let pool = pool.ok_or(Error::NoNetworks)?;
        let mut lease = pool.lease(deadline).map_err(Error::Network)?;
        lease.apply(wanted).map_err(Error::Network)?;
        let pass = match &wanted.intercept {
            Some(interceptor) => Some(intercept(&mut lease, interceptor, deadline)?),
            None => None,
        };
        let mut published = Vec::new();
        for publish in &wanted.publish {
            let host = lease.publish(publish).map_err(Error::Network)?;
            published.push(Publish { host, ..*publish });
        }
        for service in &wanted.services {
            lease.serve(service).map_err(Error::Network)?;
        }
        log::debug!("network leased; link={}", lease.link().unwrap_or_default());
        Ok(Self { pass, lease: Some(lease), published })
    }
}

/// Lets the VM in where all that it sends is to arrive, and has it arrive there.
fn intercept(
    lease: &mut Lease,
    interceptor: &Interception,
    deadline: Instant,
) -> Result<Box<dyn Pass>> {
    let address = lease.address().map_err(Error::Network)?;
    let pass = interceptor.admit(address, deadline).map_err(Error::Intercept)?;
    lease.intercept(pass.port(), pass.watch()).map_err(Error::Network)?;
    Ok(pass)
}

/// A process of a VM that is no more.
pub(crate) struct Ended {
    pub(crate) program: &'static str,
    pub(crate) status: Status,
}

impl Drop for Machine {
    fn drop(&mut self) {
        log::debug!("vm is taken down; vm={}", self.id);
        // Whoever waits for the guest learns first that it goes.
        self.link.close();
    }
}

/// The VM's cgroup; dropping it kills all that is in it and removes it.
struct OwnedCgroup(Cgroup);

impl Drop for OwnedCgroup {
    fn drop(&mut self) {
        if let Err(error) = self.0.destroy(Instant::now() + KILL_LIMIT) {
            log::error!("a cgroup stays until the next start; error={}", chain(&error));
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

/// Where the VMM delivers what its guest dials.
fn listen(folder: &Folder, reactor: &Reactor, uid: u32) -> Result<vsock_host::Listener> {
    let path = folder.vmm_file(&format!("v.sock_{}", vsock_proto::PORT));
    let listener = reactor.listen(&path).map_err(Error::Link)?;
    chown(&path, Some(uid), Some(uid)).map_err(file("give away", &path))?;
    Ok(listener)
}

fn bind_control(folder: &Folder) -> Result<UnixListener> {
    // By way of the descriptor: a socket's address is short, the state folder's path need not be.
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

/// Times stages.
struct Clock {
    since: Instant,
    stages: Vec<(&'static str, Duration)>,
}

impl Clock {
    fn start() -> Self {
        Self { since: Instant::now(), stages: Vec::new() }
    }

    fn stage(&mut self, name: &'static str) {
        let now = Instant::now();
        self.stages.push((name, now - std::mem::replace(&mut self.since, now)));
    }
}
