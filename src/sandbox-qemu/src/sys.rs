//! The time-stamp counter.

#![allow(unsafe_code)]

/// Its value; always 0 on processors without one.
pub(crate) fn time_stamp_counter() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction, and Linux leaves it to user space.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    0
}
