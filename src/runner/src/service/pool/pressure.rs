//! The thread `pressure`: hears from the kernel when tasks wait for memory (`/proc/pressure/memory`),
//! which it tells as an event; nothing is looked at meanwhile.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

const PATH: &str = "/proc/pressure/memory";
/// Some task waits for memory for 150 ms within a second: the kernel tells so once a second at most.
const TRIGGER: &[u8] = b"some 150000 1000000\0";
/// The part of the host's memory that is to stay available when a VM is parked.
const SPARE: u64 = 10;

/// The owner of the thread.
pub(super) struct Pressure {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Pressure {
    /// Calls `tell` each time; none where the kernel does not say.
    pub(super) fn start(tell: impl Fn() + Send + 'static) -> Option<Self> {
        let started = trigger().and_then(|trigger| {
            let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
            let stopped = Arc::clone(&stop);
            let thread = Builder::new()
                .name("pressure".to_owned())
                .spawn(move || listen(&trigger, &stopped, &tell))?;
            Ok(Self { stop, thread: Some(thread) })
        });
        started
            .inspect_err(|error| {
                log::info!("parked vms do not go when memory is short; path={PATH} error={error}");
            })
            .ok()
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        if let Err(errno) = self.stop.write(1) {
            log::error!("cannot wake a thread; thread=pressure error={errno}");
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            log::error!("a thread panicked: this is a bug; thread=pressure");
        }
    }
}

fn trigger() -> std::io::Result<File> {
    let mut file = File::options().read(true).write(true).open(PATH)?;
    file.write_all(TRIGGER)?;
    Ok(file)
}

fn listen(trigger: &File, stop: &EventFd, tell: &dyn Fn()) {
    loop {
        let mut fds = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(trigger.as_fd(), PollFlags::POLLPRI),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return log::error!("cannot wait for memory; error={errno}"),
            Ok(_) => {}
        }
        if fds[0].any().unwrap_or(true) {
            return;
        }
        let said = fds[1].revents().unwrap_or(PollFlags::POLLERR);
        if said.contains(PollFlags::POLLERR) {
            return log::warn!("parked vms do not go any more when memory is short");
        }
        if said.contains(PollFlags::POLLPRI) {
            tell();
        }
    }
}

/// Whether the host has memory enough to keep what is not needed now.
pub(super) fn has_memory() -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
    };
    match (kib("MemTotal:"), kib("MemAvailable:")) {
        (Some(total), Some(available)) => available >= total / SPARE,
        _ => true,
    }
}
