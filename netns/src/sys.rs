//! System calls that no safe wrapper covers: taps, and options of netlink sockets.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// The attribute for the text of an extended acknowledgement. Not in libc.
pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;

/// Attaches `device`, an open `/dev/net/tun`, to the tap of this name in the namespace of the opening
/// thread. Creates the tap if it is absent. Frames are preceded by a virtio-net header, as monitors expect.
pub(crate) fn attach_tap(device: &File, name: &str) -> io::Result<()> {
    // SAFETY: an ifreq has only integers and bytes, for which zero is valid.
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

/// Keeps the tap when its last descriptor is closed.
pub(crate) fn persist_tap(device: &File) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes an integer by value.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETPERSIST as _, 1) })
}

/// Lets an unprivileged user open the tap by its name.
pub(crate) fn give_tap(device: &File, uid: u32) -> io::Result<()> {
    // SAFETY: TUNSETOWNER takes an integer by value.
    check(unsafe {
        libc::ioctl(device.as_raw_fd(), libc::TUNSETOWNER as _, libc::c_ulong::from(uid))
    })
}

/// Enables checksum and segmentation offload, as a VM's card does.
#[cfg(feature = "testing")]
pub(crate) fn offload_tap(device: &File) -> io::Result<()> {
    // Checksums, and segmentation of TCP over IPv4 and IPv6.
    let all: libc::c_ulong = 1 | 2 | 4;
    // SAFETY: TUNSETOFFLOAD takes an integer by value.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETOFFLOAD as _, all) })
}

/// Enlarges the send buffer, and enables extended acknowledgements, acknowledgements without the request,
/// and strict filtering of dumps.
pub(crate) fn set_netlink_options(socket: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // A transaction is one datagram, and a policy may have thousands of rules.
    let room: libc::c_int = 64 << 20;
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    let value = (&raw const room).cast();
    // SAFETY: as below. The result is ignored: without the privilege, the first change of rules fails too.
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
