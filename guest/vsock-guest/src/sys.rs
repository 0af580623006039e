//! Ioctls that no safe wrapper covers.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use vsock_proto::PtySize;

/// The other side of the terminal whose master is given, whatever is mounted on `/dev`.
pub(crate) fn terminal_peer(master: BorrowedFd<'_>) -> nix::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes an integer and touches no memory.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    Errno::result(fd)?;
    // SAFETY: the ioctl returned a new descriptor, which has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets the other side of a terminal be opened.
pub(crate) fn unlock_terminal(master: BorrowedFd<'_>) -> nix::Result<()> {
    let locked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int, which outlives the call.
    let done = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const locked) };
    Errno::result(done).map(drop)
}

pub(crate) fn set_terminal_size(terminal: BorrowedFd<'_>, size: PtySize) -> nix::Result<()> {
    let size =
        libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ as _, &raw const size) };
    Errno::result(done).map(drop)
}

/// How many bytes could be read now.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> nix::Result<u64> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD as _, &raw mut count) };
    Errno::result(done)?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// How many descriptors this process may have open.
pub(crate) fn open_files_limit() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit, which outlives the call.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    Errno::result(done).ok().and_then(|_| usize::try_from(limit.rlim_cur).ok()).unwrap_or(1024)
}

/// Sends a signal, which may be a real-time one, to a process group. Never to all processes, nor
/// to our own group, whatever the number.
pub(crate) fn signal_group(group: i32, signal: i32) -> nix::Result<()> {
    if group <= 1 {
        return Err(Errno::ESRCH);
    }
    // SAFETY: killpg takes integers and touches no memory.
    Errno::result(unsafe { libc::killpg(group, signal) }).map(drop)
}

/// The number of `RNDADDENTROPY`, `_IOW('R', 3, int[2])`.
const RNDADDENTROPY: u32 = 0x4008_5203;
/// The number of `RNDRESEEDCRNG`, `_IO('R', 7)`.
const RNDRESEEDCRNG: u32 = 0x5207;

/// The most that one call mixes in, in bytes.
const ENTROPY: usize = 512;

/// The head and the bytes of the kernel's `struct rand_pool_info`.
#[repr(C)]
struct RandPoolInfo {
    bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; ENTROPY],
}

/// Mixes `bytes` into the kernel's pool, credits them and derives new keys from the pool.
pub(crate) fn add_entropy(device: impl AsFd, bytes: &[u8]) -> nix::Result<()> {
    let device = device.as_fd().as_raw_fd();
    for part in bytes.chunks(ENTROPY) {
        let mut info = RandPoolInfo {
            bits: (part.len() * 8) as libc::c_int,
            size: part.len() as libc::c_int,
            bytes: [0; ENTROPY],
        };
        info.bytes[..part.len()].copy_from_slice(part);
        // SAFETY: the kernel reads `size` bytes after the head, no more than `bytes` has.
        let done = unsafe { libc::ioctl(device, RNDADDENTROPY as _, &raw const info) };
        Errno::result(done)?;
    }
    // SAFETY: RNDRESEEDCRNG has no argument.
    let done = unsafe { libc::ioctl(device, RNDRESEEDCRNG as _) };
    Errno::result(done).map(drop)
}
