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
use process::{Child, Status};

use crate::confined;
use crate::tool::{self, Tool};

const SOCKET: &str = "vhost.sock";
/// The flag of a listening socket in `/proc/net/unix`.
const LISTENING: &str = "00010000";

/// Starts the device; it listens when this returns. What it says goes to `errors_tx`, and is read
/// from `errors` only if it ends at once.
pub(crate) fn start(launch: &Launch<'_>, errors: &OwnedFd, errors_tx: OwnedFd) -> Result<Child> {
    let folder = launch.folder.working_folder();
    let watch = watch(&folder)?;
    let tool = Tool::find(tool::VSOCK_DEVICE)?;
    let device = confined(tool.command(), launch, false)
        .args(["--vm", &format!("guest-cid=3,uds-path=v.sock,socket={SOCKET}")])
        .stderr(errors_tx)
        .spawn()
        .map_err(Error::Process)?;
    while !(folder.join(SOCKET).exists() && is_listening(device.pid())) {
        if let Some(status) = device.try_wait().map_err(Error::Process)? {
            return Err(ended(status, errors));
        }
        if Instant::now() >= launch.deadline {
            return Err(Error::NotListening { program: tool::VSOCK_DEVICE, socket: SOCKET.into() });
        }
        if folder.join(SOCKET).exists() {
            std::thread::yield_now();
        } else {
            sleep(&watch, &device, launch.deadline)?;
        }
    }
    Ok(device)
}

fn ended(status: Status, errors: &OwnedFd) -> Error {
    let status = match status {
        Status::Exited(code) => format!("ended at once with code {code}"),
        Status::Signalled { signal, .. } => format!("was killed at once by signal {signal}"),
    };
    let mut words = [0; 1024];
    // The caller still has the pipe's other end, so a read of an empty one would wait for ever.
    let mut fds = [PollFd::new(errors.as_fd(), PollFlags::POLLIN)];
    let count = match poll(&mut fds, PollTimeout::ZERO) {
        Ok(1) => nix::unistd::read(errors, &mut words).unwrap_or(0),
        _ => 0,
    };
    let words = match String::from_utf8_lossy(&words[..count]).trim() {
        "" => String::new(),
        words => format!("; it said: {words}"),
    };
    Error::Ended { program: tool::VSOCK_DEVICE, status, words }
}

fn watch(folder: &Path) -> Result<Inotify> {
    let failed = |errno: Errno| Error::Poll { source: errno.into() };
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
    watch.add_watch(folder, AddWatchFlags::IN_CREATE).map_err(failed)?;
    Ok(watch)
}

/// Waits for a new file, the device's end, or the deadline.
fn sleep(watch: &Inotify, device: &Child, deadline: Instant) -> Result<()> {
    let mut fds = [
        PollFd::new(watch.as_fd(), PollFlags::POLLIN),
        PollFd::new(device.pidfd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, process::poll_timeout(deadline)) {
        Ok(_) | Err(Errno::EINTR) => {
            while watch.read_events().is_ok() {}
            Ok(())
        }
        Err(errno) => Err(Error::Poll { source: errno.into() }),
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
