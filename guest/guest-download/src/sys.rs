//! The system call that no safe wrapper covers for every libc: renameat2.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// What renameat2 does if the new name exists.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
pub(crate) enum Existing {
    /// `RENAME_NOREPLACE`: fail with EEXIST.
    Fail = 1,
    /// `RENAME_EXCHANGE`: swap both.
    Exchange = 2,
}

/// Moves `name` from one folder to the same name in another.
pub(crate) fn rename(
    from: BorrowedFd<'_>,
    into: BorrowedFd<'_>,
    name: &CStr,
    existing: Existing,
) -> nix::Result<()> {
    let (name, flags) = (name.as_ptr(), existing as libc::c_uint);
    // SAFETY: the name ends with a zero byte and is borrowed for the call, as both descriptors are.
    let result = unsafe {
        libc::syscall(libc::SYS_renameat2, from.as_raw_fd(), name, into.as_raw_fd(), name, flags)
    };
    Errno::result(result).map(drop)
}
