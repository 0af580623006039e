//! Turning the machine off.
//!
//! 1. SIGTERM to every process.
//! 2. Wait until all have ended, at most a second.
//! 3. SIGKILL to those that are left.
//! 4. Write everything to the disk, and make it read-only.
//! 5. Reboot, which is how these machines are turned off: without ACPI there is no power to turn
//!    off, and the monitor ends at a reboot.

use std::panic;
use std::time::{Duration, Instant};

use nix::sys::reboot::{RebootMode, reboot};

use crate::console;
use crate::root::{self, Disk};
use crate::supervise::Children;
use crate::sys;

/// How long processes may take to end.
const GRACE: Duration = Duration::from_secs(1);

/// Powers off, in the order above.
pub(crate) fn off(children: &Children, disk: &Disk) -> ! {
    // 1 and 2 Ask; 3 make.
    for signal in [libc::SIGTERM, libc::SIGKILL] {
        if let Err(error) = sys::signal_all(signal) {
            log::debug!("no process was signalled; signal={signal} error={error}");
        }
        if children.wait_for_all(Instant::now() + GRACE) {
            break;
        }
    }
    // 4 Disk.
    root::seal(disk);
    // 5 Power.
    off_at_once()
}

/// Reports the error to the host, and powers off.
pub(crate) fn fail(reason: &str) -> ! {
    console::tell_failure(reason);
    nix::unistd::sync();
    off_at_once()
}

/// Lets a panic turn the machine off rather than end process 1, which would be the kernel's panic.
pub(crate) fn off_after_panic() {
    panic::set_hook(Box::new(|panic| fail(&panic.to_string())));
}

fn off_at_once() -> ! {
    let refused = reboot(RebootMode::RB_AUTOBOOT);
    // Not reached: the kernel lets process 1 do this.
    log::error!("cannot reboot; result={refused:?}");
    std::process::abort()
}
