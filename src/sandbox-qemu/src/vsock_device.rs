//! `vhost-device-vsock`: the VM's vsock device, a process of its own.
//!
//! It must listen before QEMU starts.

use std::os::fd::OwnedFd;

use microvm::{Error, Launch, Member, Result, wait_for_socket};

use crate::confined;
use crate::tool::{self, Tool};

const SOCKET: &str = "vhost.sock";
/// The flag of a listening socket in `/proc/net/unix`.
const LISTENING: &str = "00010000";

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
    let sockets = std::fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(3) == Some(LISTENING) && fields.next_back() == Some(SOCKET)
    })
}
