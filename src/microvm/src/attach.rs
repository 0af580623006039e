//! A running VM of another runner process, reached through its control socket.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::error::chain;
use crossbeam_channel::Receiver;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sandbox::{
    ExecRequest, Execution, Network, Sandbox, SandboxConfig, SandboxId, StartReport, TreeReader,
    TreeWriter, WriteRequest,
};
use vsock_host::{Guest, Reactor};

use crate::error::file;
use crate::exit_reason::ErrorContext;
use crate::record::{Phase, VmRecord};
use crate::{Error, Result, reclaim, session};

/// How long the owner of a killed VM may take to release its resources.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a VM that some runner process on this host owns.
pub fn attach(record: &VmRecord, reactor: &Reactor, deadline: Instant) -> Result<Box<dyn Sandbox>> {
    let idle = |phase| Error::Idle { id: record.id, phase };
    match record.phase {
        Phase::Assigned => {}
        Phase::Warm => return Err(idle("warm")),
        Phase::Parked => return Err(idle("parked")),
    }
    let folder = std::fs::File::open(&record.folder).map_err(file("open", &record.folder))?;
    // Through the descriptor: a socket's address has at most 108 bytes, the state folder's path more.
    let socket = format!("/proc/self/fd/{}/control.sock", folder.as_raw_fd());
    let guest = reactor.connect(Path::new(&socket), deadline).map_err(Error::Link)?;
    let report = StartReport { kernel: guest.ready().kernel.clone(), stages: Vec::new() };
    Ok(Box::new(Attached { id: record.id, folder: record.folder.clone(), guest, report }))
}

/// Kills a VM of any runner process on this host, and waits until its owner has removed it.
pub fn force_stop(record: &VmRecord) -> Result<()> {
    kill(record.id, &record.folder)
}

fn kill(id: SandboxId, folder: &Path) -> Result<()> {
    let removal = FolderRemoval::watch(folder)?;
    reclaim::kill(id)?;
    removal.wait(id, Instant::now() + CLEANUP_TIMEOUT)
}

/// A VM of another process. Dropping it only disconnects.
struct Attached {
    id: SandboxId,
    folder: PathBuf,
    guest: Guest,
    report: StartReport,
}

impl Attached {
    /// Shuts the guest down, and waits until its owner has removed the VM.
    fn shut_down(&self, deadline: Instant) -> Result<()> {
        let removal = FolderRemoval::watch(&self.folder)?;
        self.guest.shutdown(deadline).map_err(Error::Link)?;
        removal.wait(self.id, deadline)
    }
}

/// Watches for the removal of a VM's folder, which is removed last.
struct FolderRemoval(Option<Inotify>);

impl FolderRemoval {
    fn watch(folder: &Path) -> Result<Self> {
        let failed = |errno: Errno| file("watch", folder)(errno.into());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
        match inotify.add_watch(folder, AddWatchFlags::IN_DELETE_SELF) {
            Ok(_) => Ok(Self(Some(inotify))),
            Err(Errno::ENOENT) => Ok(Self(None)),
            Err(errno) => Err(failed(errno)),
        }
    }

    fn wait(&self, id: SandboxId, deadline: Instant) -> Result<()> {
        let Some(inotify) = &self.0 else {
            return Ok(());
        };
        let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        loop {
            match poll(&mut fds, process::poll_timeout(deadline)) {
                Ok(0) => return Err(Error::StillThere { id }),
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::Poll { source: errno.into() }),
            }
        }
    }
}

impl Sandbox for Attached {
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
        session::exec(Ok(self.guest.clone()), &ErrorContext::attached(), request, deadline)
    }

    fn write(
        &self,
        request: &WriteRequest,
        deadline: Instant,
    ) -> sandbox::Result<Box<dyn TreeWriter>> {
        session::write(Ok(self.guest.clone()), &ErrorContext::attached(), request, deadline)
    }

    fn read(&self, path: &Path, deadline: Instant) -> sandbox::Result<Box<dyn TreeReader>> {
        session::read(Ok(self.guest.clone()), &ErrorContext::attached(), path, deadline)
    }

    fn connect(&self, port: u16, deadline: Instant) -> sandbox::Result<UnixStream> {
        session::connect(Ok(self.guest.clone()), &ErrorContext::attached(), port, deadline)
    }

    fn assign(&self, _config: &SandboxConfig, _deadline: Instant) -> sandbox::Result<()> {
        let (id, source) = (self.id.to_string(), Error::NotOwner { id: self.id }.into());
        Err(sandbox::Error::Assign { id, source })
    }

    fn park(&self, _deadline: Instant) -> sandbox::Result<()> {
        let (id, source) = (self.id.to_string(), Error::NotOwner { id: self.id }.into());
        Err(sandbox::Error::Park { id, source })
    }

    fn set_network(&self, _network: &Network, _deadline: Instant) -> sandbox::Result<()> {
        let (id, source) = (self.id.to_string(), Error::NotOwner { id: self.id }.into());
        Err(sandbox::Error::SetNetwork { id, source })
    }

    fn ended(&self) -> Receiver<()> {
        self.guest.closed()
    }

    fn stop(self: Box<Self>, deadline: Instant) -> sandbox::Result<()> {
        if let Err(error) = self.shut_down(deadline) {
            log::warn!("vm is ended by force; vm={} reason={}", self.id, chain(&error));
            return self.kill();
        }
        Ok(())
    }

    fn kill(self: Box<Self>) -> sandbox::Result<()> {
        kill(self.id, &self.folder)
            .map_err(|error| sandbox::Error::Stop { id: self.id.to_string(), source: error.into() })
    }
}
