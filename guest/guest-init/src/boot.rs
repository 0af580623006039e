//! From the initramfs to the guest's own root.
//!
//! 1. Mount `/dev`, `/proc` and `/sys`; from here on there is a console.
//! 2. Load the kernel modules that the initramfs brings, in its order.
//! 3. Wait until both disks are there.
//! 4. Mount the read-only root (`vda`), the writable disk (`vdb`), the overlay of the two, and
//!    folders of the disk where containers are kept.
//! 5. Make the overlay the root, and give the initramfs's memory back.
//! 6. Mount what programs expect (`/dev/pts`, `/dev/shm`, `/run`, cgroup v2); controllers, what
//!    happens without memory, device links, the network, kernel parameters, modules on demand, host name.
//!
//! [`supervise`](crate::supervise) goes on from there: 7 start the service, 8 reap for ever.

use std::time::{Duration, Instant};

use crate::root::Disk;
use crate::{Result, console, device, machine, module, mount, root};

/// How long the disks may take. The devices are probed as their modules are loaded, so they are
/// there at once, or only after something went wrong.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Boots; returns the writable disk, for the end.
pub(crate) fn boot() -> Result<Disk> {
    let start = Instant::now();
    // 1 Kernel file systems.
    mount::kernel_file_systems()?;
    console::attach();
    console::log_as_asked();
    // 2 Modules.
    module::load_all()?;
    // 3 Disks.
    device::wait_for_all(&[root::ROOT, root::WRITABLE], DISK_TIMEOUT)?;
    // 4 Root.
    let disk = root::mount()?;
    // 5 Switch.
    root::switch()?;
    // 6 Machine.
    machine::prepare()?;
    log::debug!("booted; ms={}", start.elapsed().as_millis());
    Ok(disk)
}
