//! The system call that no safe wrapper covers: capset.

#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::libc;

/// `_LINUX_CAPABILITY_VERSION_3`: two words for each set.
const VERSION: u32 = 0x2008_0522;

#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives this thread exactly these capabilities, by their bits below 32, and its children none.
pub(crate) fn set_capabilities(bits: u32) -> nix::Result<()> {
    let header = Header { version: VERSION, pid: 0 };
    let low = Sets { effective: bits, permitted: bits, inheritable: 0 };
    let sets = [low, Sets { effective: 0, permitted: 0, inheritable: 0 }];
    // SAFETY: both structures are laid out as the kernel reads them in version 3, one header and two
    // words for each set, and are borrowed for the call; it writes to neither of them.
    let result =
        unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), sets.as_ptr()) };
    Errno::result(result).map(drop)
}
