//! The system calls on semaphore sets (System V), which no safe wrapper covers.

#![allow(unsafe_code)]

use std::time::Instant;

use libc::{c_int, c_long, c_ushort, key_t, sembuf};
use nix::errno::Errno;

/// A set's id in this IPC namespace. It is not a descriptor: the set may be removed at any time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id(c_int);

/// One operation on one semaphore of a set.
pub(super) fn operation(semaphore: c_ushort, change: i16, flags: c_int) -> sembuf {
    // The flags' type in the struct is narrower than their constants'; all of them fit.
    sembuf { sem_num: semaphore, sem_op: change, sem_flg: flags as _ }
}

/// The set of `count` semaphores under `key`, mode 0600; `flags` decide whether it is created.
pub(super) fn get(key: key_t, count: c_int, flags: c_int) -> Result<Id, Errno> {
    // SAFETY: semget takes and returns integers.
    Errno::result(unsafe { libc::semget(key, count, flags | 0o600) }).map(Id)
}

/// The value of a semaphore.
pub(super) fn value(set: Id, semaphore: c_ushort) -> Result<c_int, Errno> {
    // SAFETY: GETVAL returns its result; it neither reads nor writes a fourth argument.
    Errno::result(unsafe { libc::semctl(set.0, c_int::from(semaphore), libc::GETVAL) })
}

/// Performs all operations atomically once they are possible; `EAGAIN` at `until`.
pub(super) fn operate(set: Id, operations: &mut [sembuf], until: Instant) -> Result<(), Errno> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = libc::timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            tv_nsec: c_long::from(left.subsec_nanos()),
        };
        // SAFETY: the kernel reads as many operations as their slice has, and one timespec, whose
        // layout is that of this system call wherever pointers have 64 bits; it writes neither.
        let result = unsafe {
            libc::syscall(
                libc::SYS_semtimedop,
                set.0,
                operations.as_mut_ptr(),
                operations.len(),
                &raw const left,
            )
        };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            other => return other.map(drop),
        }
    }
}

/// How many threads wait for a semaphore.
#[cfg(test)]
pub(super) fn waiters(set: Id, semaphore: c_ushort) -> Result<c_int, Errno> {
    // SAFETY: GETNCNT returns its result; it neither reads nor writes a fourth argument.
    Errno::result(unsafe { libc::semctl(set.0, c_int::from(semaphore), libc::GETNCNT) })
}

/// Removes a set; waiting threads get an error.
#[cfg(test)]
pub(super) fn remove(set: Id) -> Result<(), Errno> {
    // SAFETY: IPC_RMID neither reads nor writes a fourth argument.
    Errno::result(unsafe { libc::semctl(set.0, 0, libc::IPC_RMID) }).map(drop)
}
