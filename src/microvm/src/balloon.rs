//! Taking back memory that a VM does not need while it stands still, and giving it back before it runs.
//!
//! The guest gives pages when it can, and nothing tells when it has: Firecracker has no events. So it
//! is looked at again and again, for the moments that this takes. A guest that lies harms itself alone.

use std::time::{Duration, Instant};

use crate::machine::Machine;
use crate::{Error, Result};

/// What is left to a guest, at least, in MiB; and in parts of its memory.
const LEFT_MIB: u32 = 128;
const LEFT_PART: u32 = 4;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// How long a guest may give nothing more: it tries again five times a second.
const STALL: Duration = Duration::from_millis(500);
/// How long taking may take.
const TAKE: Duration = Duration::from_secs(5);
/// How long giving back may take: as much as an emulated guest may need for its whole memory.
const GIVE: Duration = Duration::from_secs(20);

/// Takes what the guest can spare. One that gives less than it is asked for keeps the rest.
pub(crate) fn inflate(machine: &mut Machine, deadline: Instant) -> Result<()> {
    let target = size(machine.memory_mib());
    if target == 0 {
        return Ok(());
    }
    let begun = Instant::now();
    let end = deadline.min(begun + TAKE);
    machine.remote().set_balloon(target, deadline)?;
    let (mut taken, mut since) = (0, begun);
    while taken < target && Instant::now() < end && since.elapsed() < STALL {
        machine.wait(LOOK)?;
        let now = machine.remote().balloon(deadline)?;
        if now > taken {
            (taken, since) = (now, Instant::now());
        }
    }
    if taken < target {
        // Nor is it to go on when it runs again.
        machine.remote().set_balloon(taken, deadline)?;
    }
    let ms = begun.elapsed().as_millis();
    log::debug!("memory taken back; mib={taken} asked={target} ms={ms}");
    Ok(())
}

/// Gives all of it back, and sees to it that the guest has taken it.
pub(crate) fn deflate(machine: &mut Machine, deadline: Instant) -> Result<()> {
    let begun = Instant::now();
    let end = deadline.min(begun + GIVE);
    machine.remote().set_balloon(0, deadline)?;
    loop {
        let kept = machine.remote().balloon(deadline)?;
        if kept == 0 {
            log::debug!("memory given back; ms={}", begun.elapsed().as_millis());
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(Error::Balloon { mib: kept });
        }
        machine.wait(LOOK)?;
    }
}

/// How much a guest of such a size is asked for.
fn size(memory_mib: u32) -> u32 {
    memory_mib - (memory_mib / LEFT_PART).max(LEFT_MIB).min(memory_mib)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_left_and_never_too_little() {
        assert_eq!([96, 256, 512, 4096].map(size), [0, 128, 384, 3072]);
    }
}
