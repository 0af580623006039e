//! The rate of the processor's time-stamp counter.
//!
//! An emulated kernel calibrates it against an emulated timer. On a busy host this fails, and about every
//! second boot hangs early. So the rate is passed on the kernel's command line.

use std::time::Instant;

use crate::sys;

/// The counter and the clock, read together.
pub(crate) struct Tsc {
    counter: u64,
    clock: Instant,
}

impl Tsc {
    pub(crate) fn read() -> Self {
        Self { counter: sys::time_stamp_counter(), clock: Instant::now() }
    }

    /// The rate since this reading, in kHz; more precise with time. `None` without a counter, or within 1 ms
    /// of the reading.
    pub(crate) fn rate_khz(&self) -> Option<u64> {
        let now = Self::read();
        let nanoseconds = u64::try_from((now.clock - self.clock).as_nanos()).ok()?;
        let ticks = now.counter.checked_sub(self.counter).filter(|ticks| *ticks > 0)?;
        (nanoseconds >= 1_000_000)
            .then(|| (u128::from(ticks) * 1_000_000 / u128::from(nanoseconds)) as u64)
    }
}
