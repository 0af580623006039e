//! The ioctls that no safe wrapper covers: reflinks and the KVM device.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Makes `target` a reflink of `source` (FICLONE).
pub(crate) fn reflink(source: &File, target: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor by value and writes no memory of ours.
    let result = unsafe { libc::ioctl(target.as_raw_fd(), libc::FICLONE, source.as_raw_fd()) };
    check(result).map(drop)
}

/// Creates and drops a VM with one vCPU on an open `/dev/kvm`.
pub(crate) fn try_kvm(kvm: &File) -> io::Result<()> {
    const KVM_CREATE_VM: libc::c_ulong = 0xae01;
    const KVM_CREATE_VCPU: libc::c_ulong = 0xae41;
    // SAFETY: both requests take an integer by value and return a new descriptor, which is owned
    // from here on.
    unsafe {
        let vm = check(libc::ioctl(kvm.as_raw_fd(), KVM_CREATE_VM as _, 0))?;
        let vm = OwnedFd::from_raw_fd(vm);
        let vcpu = check(libc::ioctl(vm.as_raw_fd(), KVM_CREATE_VCPU as _, 0))?;
        drop(OwnedFd::from_raw_fd(vcpu));
    }
    Ok(())
}

fn check(result: i32) -> io::Result<i32> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
