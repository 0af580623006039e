//! Entering a jail, between fork and exec.

#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int, c_long, c_ulong};
use std::ptr;

use super::Plan;
use crate::Credentials;

/// More than any jail has.
const DEV_OPTIONS: &CStr = c"size=64k,nr_inodes=32,mode=755";

/// Makes the plan's folder the root of this process; an error is its number.
///
/// 1. A mount namespace of our own, from which nothing goes back to the host's.
/// 2. The folder as a mount, as only that can be a root.
/// 3. `dev` in it, with the devices.
/// 4. The folder becomes the root, and the host's goes.
///
/// For a child between fork and exec, that is root and has one thread.
pub(crate) fn enter(plan: &Plan, owner: Option<&Credentials>) -> Result<(), c_int> {
    let (uid, gid) = owner.map_or((0, 0), |owner| (owner.uid, owner.gid));
    let folder = plan.folder.as_c_str();
    // SAFETY: all of these are system calls, which allocate nothing and take no lock; each string
    // ends with a zero byte and is static or in `plan`, which this process has its own copy of.
    unsafe {
        // 1 Namespace.
        check(libc::unshare(libc::CLONE_NEWNS))?;
        mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE)?;
        // 2 Mount. Its flags are set by a second call only.
        mount(Some(folder), folder, None, libc::MS_BIND)?;
        let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
        mount(None, folder, None, libc::MS_BIND | libc::MS_REMOUNT | flags)?;
        check(libc::chdir(folder.as_ptr()))?;
        // 3 Devices.
        let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
        mount(Some(c"tmpfs"), c"dev", Some(c"tmpfs"), flags)?;
        let umask = libc::umask(0);
        for folder in &plan.folders {
            match check(libc::mkdir(folder.as_ptr(), 0o755)) {
                Err(libc::EEXIST) => {}
                other => other?,
            }
        }
        for (path, number) in &plan.devices {
            check(libc::mknod(path.as_ptr(), libc::S_IFCHR | 0o600, *number))?;
            check(libc::chown(path.as_ptr(), uid, gid))?;
        }
        libc::umask(umask);
        // 4 Root. The old one is put onto the new one, and is what is unmounted there.
        check_long(libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()))?;
        check(libc::umount2(c".".as_ptr(), libc::MNT_DETACH))?;
        check(libc::chdir(c"/".as_ptr()))
    }
}

/// # Safety
/// As [`enter`].
unsafe fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: c_ulong,
) -> Result<(), c_int> {
    let pointer = |text: Option<&CStr>| text.map_or(ptr::null::<c_char>(), CStr::as_ptr);
    let options = if kind.is_some() { DEV_OPTIONS.as_ptr() } else { ptr::null() };
    // SAFETY: each pointer is null or leads to a string that ends with a zero byte.
    check(unsafe {
        libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, options.cast())
    })
}

fn check(result: c_int) -> Result<(), c_int> {
    check_long(result.into())
}

fn check_long(result: c_long) -> Result<(), c_int> {
    if result == -1 {
        // SAFETY: __errno_location is this thread's own.
        return Err(unsafe { *libc::__errno_location() });
    }
    Ok(())
}
