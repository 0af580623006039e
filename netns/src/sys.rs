//! System calls that no safe wrapper covers: taps, and options of netlink sockets.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// An attribute of refusals: the kernel's words. Not in libc.
pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;

/// Opens the tap of this name in the namespace of the thread that opened `device`, which is
/// `/dev/net/tun`; it is made if there is none. It has a header for offloads before each frame,
/// as monitors expect.
pub(crate) fn attach_tap(device: &File, name: &str) -> io::Result<()> {
    // SAFETY: an ifreq is integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *target = byte as libc::c_char;
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })
}

/// Lets the tap live on when nobody has it open.
pub(crate) fn persist_tap(device: &File) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes an integer by value.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST as _, 1) })
}

/// Lets a user without privileges open the tap by its name.
pub(crate) fn give_tap(device: &File, uid: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes an integer by value.
    check(unsafe {
        libc::ioctl(device.as_raw_fd(), libc::TUNSETOWNER as _, libc::c_ulong::from(uid))
    })
}

/// Lets the kernel hand over large frames whose sums are not made yet, as a VM's card does.
#[cfg(feature = "testing")]
pub(crate) fn offload_tap(device: &File) -> io::Result<()> {
    // Sums, and segments of TCP over IPv4 and IPv6.
    let all: libc::c_ulong = 1 | 2 | 4;
    // SAFETY: TUNSETOFFLOAD takes an integer by value.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD as _, all) })
}

/// Makes room for long requests, and asks the kernel for words, for answers without a copy of the question, and for lists of just
/// what was asked for.
pub(crate) fn set_netlink_options(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // A transaction is sent as a whole, and a policy may have thousands of rules.
    let room: libc::c_int = 64 << 20;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let value = (&raw const room).cast();
    // SAFETY: as below. Who may not raise it may not change rules either, and is told so then.
    unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE);
        libc::setsockopt(socket.as_raw_fd(), level, option, value, length);
    }
    let options = [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK, libc::NETLINK_GET_STRICT_CHK];
    for option in options {
        let value = (&raw const on).cast();
        // SAFETY: the value is an integer of the stated length, which outlives the call.
        check(unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_NETLINK, option, value, length)
        })?;
    }
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
