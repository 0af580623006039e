//! The thread `pressure`: waits for memory pressure events of the kernel (PSI trigger on `/proc/pressure/memory`),
//! without polling at intervals.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use base::event::Event;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

const PATH: &str = "/proc/pressure/memory";
/// An event if tasks stall on memory for 150 ms within a second; at most one event per second.
const TRIGGER: &[u8] = b"some 150000 1000000\0";
/// A VM is parked only if 1/10 of the host's memory is available.
const MIN_AVAILABLE_PART: u64 = 10;

/// The owner of the thread.
pub(super) struct Pressure {
    stop: Arc<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Pressure {
    /// Calls `on_pressure` for each event. `None` if the kernel has no PSI.
    pub(super) fn start(on_pressure: impl Fn() + Send + 'static) -> Option<Self> {
        let started = trigger().and_then(|trigger| {
            let stop = Arc::new(Event::new()?);
            let stopped = Arc::clone(&stop);
            let thread = base::thread::spawn("pressure", move || {
                listen(&trigger, &stopped, &on_pressure);
            })?;
            Ok(Self { stop, thread: Some(thread) })
        });
        started
            .inspect_err(|error| {
                log::info!("memory pressure does not evict parked vms; path={PATH} error={error}");
            })
            .ok()
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.stop.set();
        if let Some(thread) = self.thread.take() {
            base::thread::join(thread);
        }
    }
}

fn trigger() -> std::io::Result<File> {
    let mut file = File::options().read(true).write(true).open(PATH)?;
    file.write_all(TRIGGER)?;
    Ok(file)
}

fn listen(trigger: &File, stop: &Event, on_pressure: &dyn Fn()) {
    loop {
        let mut fds = [
            PollFd::new(stop.as_fd(), PollFlags::POLLIN),
            PollFd::new(trigger.as_fd(), PollFlags::POLLPRI),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(errno) => return log::error!("cannot wait for memory pressure; error={errno}"),
            Ok(_) => {}
        }
        if fds[0].any().unwrap_or(true) {
            return;
        }
        let events = fds[1].revents().unwrap_or(PollFlags::POLLERR);
        if events.contains(PollFlags::POLLERR) {
            return log::warn!("memory pressure no longer evicts parked vms");
        }
        if events.contains(PollFlags::POLLPRI) {
            on_pressure();
        }
    }
}

/// Whether the host has enough available memory to park a VM.
pub(super) fn has_memory() -> bool {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok())
    };
    match (kib("MemTotal:"), kib("MemAvailable:")) {
        (Some(total), Some(available)) => available >= total / MIN_AVAILABLE_PART,
        _ => true,
    }
}
