//! `vhost-device-vsock`: the VM's vsock device, a process of its own.
//!
//! It must listen before QEMU starts.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use base::deadline::poll_until;
use microvm::{Error, Launch, Member, Result, wait_for_socket};

use crate::confined;
use crate::tool::{self, Tool};

const SOCKET: &str = "vhost.sock";
/// The flag of a listening socket in `/proc/net/unix`.
const LISTENING: &str = "00010000";
/// The interval between two looks at the device's threads.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);
/// The longest wait: a guest that always sends is paused all the same.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts the device, which listens when this returns. Its standard error is `errors_tx`; `errors` is read
/// only if it ends at once.
pub(crate) fn start(launch: &Launch<'_>, errors: &OwnedFd, errors_tx: OwnedFd) -> Result<Member> {
    let tool = Tool::find(tool::VSOCK_DEVICE)?;
    let child = confined(tool.command(), launch, false)
        .args(["--vm", &format!("guest-cid=3,uds-path=v.sock,socket={SOCKET}")])
        .stderr(errors_tx)
        .spawn()
        .map_err(Error::Process)?;
    let device = Member { program: tool::VSOCK_DEVICE, child };
    let pid = device.child.pid();
    wait_for_socket(launch, &device, SOCKET, errors, || is_listening(pid).then_some(()))?;
    Ok(device)
}

/// Reads the socket list of the device's own network namespace.
fn is_listening(pid: u32) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some(LISTENING) && fields.next_back() == Some(SOCKET)
    })
}

/// Waits until all threads of the device sleep. The thread that handles the queues ends with an error if it finds one stopped, and the
/// link ends with it: so nothing may be under way when QEMU stops the queues, and nothing come before they have started.
pub(crate) fn wait_until_idle(pid: u32, deadline: Instant) {
    let end = deadline.min(Instant::now() + IDLE_TIMEOUT);
    // A device that cannot be looked at has ended, which the VM's thread finds out.
    while !is_idle(pid).unwrap_or(true) {
        if Instant::now() >= end {
            log::debug!("the vsock device does not become idle; pid={pid}");
            return;
        }
        // Nothing tells when a thread of another process falls asleep.
        let _ = poll_until(&mut [], Some(end.min(Instant::now() + LOOK_INTERVAL)));
    }
}

fn is_idle(pid: u32) -> io::Result<bool> {
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = fs::read_to_string(task?.path().join("stat"))?;
        // After the name, which may have any character.
        let state = stat.rsplit(')').next().map(str::trim_start);
        if !state.is_some_and(|state| state.starts_with('S')) {
            return Ok(false);
        }
    }
    Ok(true)
}
