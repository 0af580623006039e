//! Pseudo-terminals.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, SpecialCharacterIndices, tcgetattr};
use nix::unistd::{Uid, fchown, tcgetpgrp};
use vsock_proto::PtySize;

use crate::sys;

/// The most that a terminal may hold when its command ends, in bytes. The kernel does not tell
/// how much that is; it is less than this.
pub(crate) const CONTENT: u64 = 128 << 10;

/// A terminal: our side of it, which does not block, and the command's side.
pub(crate) struct Terminal {
    pub(crate) master: Rc<OwnedFd>,
    pub(crate) peer: OwnedFd,
}

/// Makes a terminal of this size that belongs to `owner`.
pub(crate) fn create(size: PtySize, owner: Option<u32>) -> nix::Result<Terminal> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let master = open("/dev/ptmx", flags, Mode::empty())?;
    sys::unlock_terminal(master.as_fd())?;
    sys::set_terminal_size(master.as_fd(), size)?;
    let peer = sys::terminal_peer(master.as_fd())?;
    fchown(&peer, owner.map(Uid::from_raw), None)?;
    Ok(Terminal { master: Rc::new(master), peer })
}

/// The characters that tell a reader of the terminal that its input is complete: in the middle
/// of a line the first only ends the line. In raw mode it is up to the program what one means;
/// those that edit lines themselves take it as the end too.
pub(crate) fn end_of_input(master: BorrowedFd<'_>, mid_line: bool) -> Vec<u8> {
    let Ok(settings) = tcgetattr(master) else {
        return Vec::new();
    };
    let eof = settings.control_chars[SpecialCharacterIndices::VEOF as usize];
    if eof == libc::_POSIX_VDISABLE {
        return Vec::new();
    }
    let is_cooked = settings.local_flags.contains(LocalFlags::ICANON);
    vec![eof; if is_cooked && mid_line { 2 } else { 1 }]
}

/// Sends a signal to the process group in the foreground.
pub(crate) fn signal_foreground(master: BorrowedFd<'_>, signal: i32) -> nix::Result<()> {
    let group = tcgetpgrp(master)?;
    sys::signal_group(group.as_raw(), signal)
}
