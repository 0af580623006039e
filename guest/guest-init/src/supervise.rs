//! The supervisor: restarts the service, and reaps orphaned processes.
//!
//! ```text
//!   7 start ──▶ 8 reap ──▶ the service ended
//!       ▲                    ├─ asked to turn off, or SIGTERM ──▶ power off
//!       │                    ├─ rejected by the host ───────────▶ power off
//!       └── wait a little ◀──┴─ died: the next one tells the host why
//! ```

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use process::{Cgroup, Child, Command, Resource, Status};

use crate::root::Disk;
use crate::service::{self, EXIT_REJECTED, EXIT_SHUTDOWN};
use crate::sys::{self, Zombie};
use crate::{Error, Result, power};

/// A service that lived longer did not fail at start.
const QUICK: Duration = Duration::from_secs(10);

/// The limit of quick failures in a row.
const TOO_MANY: u32 = 5;

/// The wait before the second start in a row; it doubles from there.
const FIRST_DELAY: Duration = Duration::from_millis(100);

/// The soft and hard limits of open files of a command.
const FILES_SOFT: u64 = 1 << 16;
const FILES_HARD: u64 = 1 << 20;

/// Runs services until the machine is to be turned off.
pub(crate) fn supervise(disk: &Disk) -> ! {
    let children = match Children::watch() {
        Ok(children) => children,
        Err(error) => power::fail(&base::error::chain(&error)),
    };
    let secret = secret_memory();
    let mut deaths = Deaths::default();
    let mut reason: Option<String> = None;
    loop {
        // 7 Start.
        let born = Instant::now();
        let ended = match start(reason.as_deref(), secret.as_ref()) {
            // 8 Reap.
            Ok(service) => children.wait_for(&service),
            Err(error) => Ended::Died(base::error::chain(&error)),
        };
        let why = match ended {
            Ended::Off => power::off(&children, disk),
            Ended::Died(why) => why,
        };
        log::error!("the vsock service ended: {why}");
        end_commands();
        let Some(delay) = deaths.next(born.elapsed()) else {
            power::fail(&format!("the vsock service died {TOO_MANY} times in a row: {why}"));
        };
        if children.wait_until(Instant::now() + delay) {
            power::off(&children, disk);
        }
        reason = Some(why);
    }
}

/// A memory file in which one service keeps the link's secret for the next. It has no name, and
/// only root may inspect the descriptors of a process that holds it.
fn secret_memory() -> Option<OwnedFd> {
    match memfd_create(c"link-secret", MFdFlags::MFD_CLOEXEC) {
        Ok(memory) => Some(memory),
        Err(error) => {
            log::warn!("a service that is started again will be refused; error={error}");
            None
        }
    }
}

/// Starts the service in a cgroup of its own; its standard input is the memory for the secret.
fn start(previous_failure: Option<&str>, secret: Option<&OwnedFd>) -> process::Result<Child> {
    let parent = Path::new(service::CGROUPS);
    let cgroup = match Cgroup::open(parent, service::NAME)? {
        Some(cgroup) => cgroup,
        None => Cgroup::create(parent, service::NAME)?,
    };
    // The running program, whose file is deleted.
    let mut command = Command::new("/proc/self/exe")
        .shown_as(service::NAME)
        .args(previous_failure)
        .limit(Resource::OpenFiles, FILES_SOFT, FILES_HARD)
        .cgroup(&cgroup);
    if let Some(secret) = secret.and_then(|secret| secret.try_clone().ok()) {
        command = command.stdin(secret);
    }
    if let Some(console) = console() {
        command = command.stderr(console);
    }
    command.spawn()
}

fn console() -> Option<OwnedFd> {
    io::stderr().as_fd().try_clone_to_owned().ok()
}

/// Kills the commands of a service that died: its successor does not know them.
fn end_commands() {
    let ended = match Cgroup::open(Path::new(service::CGROUPS), service::COMMANDS) {
        Ok(Some(commands)) => commands.destroy(Instant::now() + Duration::from_secs(1)),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        log::warn!("commands may be left; error={}", base::error::chain(&error));
    }
}

/// All child processes, which include adopted orphans.
#[derive(Debug)]
pub(crate) struct Children {
    signals: SignalFd,
}

/// How a service ended.
#[derive(Debug)]
enum Ended {
    /// The machine must power off.
    Off,
    /// It failed, with this description.
    Died(String),
}

impl Children {
    /// Starts to receive SIGCHLD and SIGTERM.
    fn watch() -> Result<Self> {
        let failed = |source| Error::WatchSignals { source };
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGCHLD);
        signals.add(Signal::SIGTERM);
        signals.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&signals, flags).map_err(failed)?;
        Ok(Self { signals })
    }

    /// Reaps until the service ends, or SIGTERM comes.
    fn wait_for(&self, service: &Child) -> Ended {
        loop {
            if self.sleep(None) {
                return Ended::Off;
            }
            while let Zombie::Is(pid) = zombie() {
                if pid != service.pid() {
                    reap(pid);
                    continue;
                }
                return match service.try_wait() {
                    Ok(Some(status)) => Ended::from(status),
                    Ok(None) => continue,
                    Err(error) => Ended::Died(base::error::chain(&error)),
                };
            }
        }
    }

    /// Reaps until the deadline; returns whether SIGTERM came.
    fn wait_until(&self, deadline: Instant) -> bool {
        while Instant::now() < deadline {
            if self.sleep(Some(deadline)) {
                return true;
            }
            while let Zombie::Is(pid) = zombie() {
                reap(pid);
            }
        }
        false
    }

    /// Reaps until there are no processes, at most until `deadline`; whether there are none.
    pub(crate) fn wait_for_all(&self, deadline: Instant) -> bool {
        loop {
            match zombie() {
                Zombie::NoChildren => return true,
                Zombie::Is(pid) => reap(pid),
                Zombie::None if Instant::now() >= deadline => return false,
                Zombie::None => drop(self.sleep(Some(deadline))),
            }
        }
    }

    /// Sleeps until a child ends or a signal comes; whether it was SIGTERM.
    fn sleep(&self, deadline: Option<Instant>) -> bool {
        let timeout = deadline.map_or(PollTimeout::NONE, process::poll_timeout);
        let mut fds = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => power::fail(&format!("cannot wait for signals: {errno}")),
        }
        let mut is_term = false;
        while let Ok(Some(signal)) = self.signals.read_signal() {
            is_term |= signal.ssi_signo == libc::SIGTERM as u32;
        }
        is_term
    }
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        match status {
            Status::Exited(EXIT_SHUTDOWN | EXIT_REJECTED) => Self::Off,
            Status::Exited(code) => Self::Died(format!("exited with code {code}")),
            Status::Signalled { signal, .. } => Self::Died(format!("killed by signal {signal}")),
        }
    }
}

fn zombie() -> Zombie {
    sys::find_zombie().unwrap_or_else(|error| {
        log::error!("cannot look for ended processes; error={error}");
        Zombie::None
    })
}

fn reap(pid: u32) {
    match sys::reap(pid) {
        Ok(()) => log::debug!("reaped; pid={pid}"),
        Err(error) => log::error!("cannot reap; pid={pid} error={error}"),
    }
}

/// Counts quick failures in a row.
#[derive(Debug, Default)]
struct Deaths {
    quick: u32,
}

impl Deaths {
    /// The wait before a restart after a service that lived for `lived`; `None` to give up.
    fn next(&mut self, lived: Duration) -> Option<Duration> {
        if lived >= QUICK {
            self.quick = 0;
        }
        self.quick += 1;
        match self.quick {
            TOO_MANY.. => None,
            0 | 1 => Some(Duration::ZERO),
            again => Some(FIRST_DELAY * (1 << (again - 2))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_restarted_at_once_and_given_up_after_five_short_lives() {
        let mut deaths = Deaths::default();
        let mut next = || deaths.next(Duration::from_millis(1)).map(|delay| delay.as_millis());
        assert_eq!(next(), Some(0));
        assert_eq!(next(), Some(100));
        assert_eq!(next(), Some(200));
        assert_eq!(next(), Some(400));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_long_life_of_the_service_resets_the_count_of_failures() {
        let mut deaths = Deaths::default();
        deaths.next(Duration::ZERO);
        deaths.next(Duration::ZERO);
        assert_eq!(deaths.next(QUICK), Some(Duration::ZERO));
    }
}
