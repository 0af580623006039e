//! System calls that no safe wrapper covers.

#![allow(unsafe_code)]

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A socket to configure network devices with.
#[derive(Debug)]
pub(crate) struct Devices(OwnedFd);

impl Devices {
    pub(crate) fn open() -> io::Result<Self> {
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
        // SAFETY: socket takes integers and touches no memory.
        let fd = check(unsafe { libc::socket(libc::AF_INET, kind, 0) })?;
        // SAFETY: the call returned a new descriptor, which has no other owner.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sets a device up.
    pub(crate) fn set_up(&self, name: &str) -> io::Result<()> {
        let mut request = request(name);
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        self.ask(libc::SIOCSIFFLAGS, &request)
    }

    /// Gives a device an address in a network.
    pub(crate) fn assign(&self, name: &str, address: Ipv4Addr, mask: Ipv4Addr) -> io::Result<()> {
        for (operation, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, mask)] {
            let mut request = request(name);
            request.ifr_ifru.ifru_addr = socket_address(value);
            self.ask(operation, &request)?;
        }
        Ok(())
    }

    /// Adds a default route to a gateway.
    pub(crate) fn route_by(&self, gateway: Ipv4Addr) -> io::Result<()> {
        // SAFETY: an rtentry is integers, addresses and a null pointer, for which zero is a value.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        self.ask(libc::SIOCADDRT, &route)
    }

    fn ask<T>(&self, operation: libc::c_ulong, request: &T) -> io::Result<()> {
        let request: *const T = request;
        // SAFETY: the callers pass an operation that reads one value of the type that they pass,
        // which outlives the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), operation as _, request) }).map(drop)
    }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq is integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes().take(room)) {
        *target = byte as libc::c_char;
    }
    request
}

/// An address of IPv4 in the place of one of any family.
fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    const ADDRESS: usize = 2;
    // SAFETY: a sockaddr is integers, for which zero is a value.
    let mut socket: libc::sockaddr = unsafe { std::mem::zeroed() };
    socket.sa_family = libc::AF_INET as libc::sa_family_t;
    // As sockaddr_in has it: behind the port.
    let target = socket.sa_data.iter_mut().skip(ADDRESS);
    for (byte, value) in target.zip(address.octets()) {
        *byte = value as libc::c_char;
    }
    socket
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zombie {
    /// Its process id. It is still a zombie.
    Is(u32),
    /// All children are running.
    None,
    /// There are no children.
    NoChildren,
}

/// Looks for a child that has ended, without reaping it.
pub(crate) fn find_zombie() -> io::Result<Zombie> {
    // SAFETY: a siginfo is integers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: waitid writes one siginfo, which outlives the call.
    match check(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) }) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(Zombie::NoChildren),
        Err(error) => Err(error),
        // SAFETY: after a successful waitid the siginfo is one of a child, or still all zeros.
        Ok(_) => match unsafe { info.si_pid() } {
            0 => Ok(Zombie::None),
            pid => Ok(Zombie::Is(pid as u32)),
        },
    }
}

/// Reaps a zombie.
pub(crate) fn reap(pid: u32) -> io::Result<()> {
    // SAFETY: a null status is not written to.
    check(unsafe { libc::waitpid(pid as libc::pid_t, std::ptr::null_mut(), libc::WNOHANG) })?;
    Ok(())
}

/// Sends a signal to every process but this one.
pub(crate) fn signal_all(signal: libc::c_int) -> io::Result<()> {
    // SAFETY: kill takes integers and touches no memory.
    check(unsafe { libc::kill(-1, signal) })?;
    Ok(())
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
