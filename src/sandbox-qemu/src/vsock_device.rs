//! `vhost-device-vsock`: the VM's vsock device, a process of its own.
//!
//! It must listen before QEMU starts. It does not say when it does, so its folder is watched for
//! the socket; between the socket's appearance and its listening are two system calls.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use microvm::{Error, Launch, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use process::Child;

use crate::confined;
use crate::tool::{self, Tool};

const SOCKET: &str = "vhost.sock";
/// The flag of a listening socket in `/proc/net/unix`.
const LISTENING: &str = "00010000";

/// Starts the device; it listens when this returns.
pub(crate) fn start(launch: &Launch<'_>, errors: OwnedFd) -> Result<Child> {
    let folder = launch.folder.working_folder();
    let watch = watch(&folder)?;
    let tool = Tool::find(tool::VSOCK_DEVICE)?;
    let device = confined(tool.command(), launch, false)
        .args(["--vm", &format!("guest-cid=3,uds-path=v.sock,socket={SOCKET}")])
        .stderr(errors)
        .spawn()
        .map_err(Error::Process)?;
    let not_listening =
        || Error::NotListening { program: tool::VSOCK_DEVICE, socket: SOCKET.to_owned() };
    while !folder.join(SOCKET).exists() {
        if !sleep(&watch, &device, launch.deadline)? {
            return Err(not_listening());
        }
    }
    while !is_listening(device.pid()) {
        if Instant::now() >= launch.deadline || device.try_wait().map_err(Error::Process)?.is_some()
        {
            return Err(not_listening());
        }
        std::thread::yield_now();
    }
    Ok(device)
}

fn watch(folder: &Path) -> Result<Inotify> {
    let failed = |errno: Errno| Error::Poll { source: errno.into() };
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    watch.add_watch(folder, AddWatchFlags::IN_CREATE).map_err(failed)?;
    Ok(watch)
}

/// Waits for a new file; `false` if the device ended or the time is up.
fn sleep(watch: &Inotify, device: &Child, deadline: Instant) -> Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
    let mut fds = [
        PollFd::new(watch.as_fd(), PollFlags::POLLIN),
        PollFd::new(device.pidfd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, timeout) {
        Ok(0) => Ok(false),
        Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(Error::Poll { source: errno.into() }),
        Ok(_) => {
            let ended = fds[1].any().unwrap_or(true);
            while watch.read_events().is_ok() {}
            Ok(!ended)
        }
    }
}

/// By the kernel's list of the device's network namespace, in which nobody else is.
fn is_listening(pid: u32) -> bool {
    let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some(LISTENING) && fields.next_back() == Some(SOCKET)
    })
}
