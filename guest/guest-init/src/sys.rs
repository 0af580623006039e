//! System calls that no safe wrapper covers.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Sets the loopback device up.
pub(crate) fn bring_loopback_up() -> io::Result<()> {
    // SAFETY: socket takes integers and touches no memory.
    let fd =
        check(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: the call returned a new descriptor, nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an ifreq is integers and bytes, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *target = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })?;
    Ok(())
}

/// A child that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zombie {
    /// Its process id. It is still a zombie.
    Is(u32),
    /// All children that there are run.
    None,
    /// There are no children.
    NoChildren,
}

/// Looks for a child that has ended, and leaves it as it is.
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

/// Ends a zombie.
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
