//! Reclaims a parked VM's spare memory by its balloon, and returns it before the VM runs.
//!
//! The guest inflates its balloon when it can. Firecracker sends no event about it, so its statistics are
//! polled until the target is reached. A guest that lies harms only itself.

use std::time::{Duration, Instant};

use crate::machine::Machine;
use crate::{Error, Result};

/// The least that a guest keeps, in MiB.
const KEPT_MIB: u32 = 128;
/// The least that a guest keeps, as a divisor of its memory.
const KEPT_DIVISOR: u32 = 4;
/// The interval between two polls.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Inflation ends if the guest makes no progress for this long; it tries five times a second.
const STALL: Duration = Duration::from_millis(500);
/// The longest inflation.
const INFLATE_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest deflation: an emulated guest may need it for its whole memory.
const DEFLATE_TIMEOUT: Duration = Duration::from_secs(20);

/// Inflates the balloon by what the guest can spare, which may be less than the target.
pub(crate) fn inflate(machine: &mut Machine, deadline: Instant) -> Result<()> {
    let target = size(machine.memory_mib());
    if target == 0 {
        return Ok(());
    }
    let begun = Instant::now();
    let end = deadline.min(begun + INFLATE_TIMEOUT);
    machine.remote().set_balloon(target, deadline)?;
    let (mut taken, mut since) = (0, begun);
    while taken < target && Instant::now() < end && since.elapsed() < STALL {
        machine.wait(POLL_INTERVAL)?;
        let now = machine.remote().balloon(deadline)?;
        if now > taken {
            (taken, since) = (now, Instant::now());
        }
    }
    if taken < target {
        // So that it does not continue to inflate when it runs again.
        machine.remote().set_balloon(taken, deadline)?;
    }
    let ms = begun.elapsed().as_millis();
    log::debug!("balloon inflated; mib={taken} target={target} ms={ms}");
    Ok(())
}

/// Deflates the balloon, and waits until the guest has its memory back.
pub(crate) fn deflate(machine: &mut Machine, deadline: Instant) -> Result<()> {
    let begun = Instant::now();
    let end = deadline.min(begun + DEFLATE_TIMEOUT);
    machine.remote().set_balloon(0, deadline)?;
    loop {
        let kept = machine.remote().balloon(deadline)?;
        if kept == 0 {
            log::debug!("balloon deflated; ms={}", begun.elapsed().as_millis());
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::Balloon { mib: kept });
        }
        machine.wait(POLL_INTERVAL)?;
    }
}

/// The target size of the balloon.
fn size(memory_mib: u32) -> u32 {
    memory_mib - (memory_mib / KEPT_DIVISOR).max(KEPT_MIB).min(memory_mib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_keeps_a_quarter_of_its_memory_and_at_least_128_mib() {
        assert_eq!([96, 256, 512, 4096].map(size), [0, 128, 384, 3072]);
    }
}
