//! The requests of a cold boot, in this order.
//!
//! 1. the version, which is checked
//! 2. processors and memory
//! 3. kernel, initramfs and command line
//! 4. disks, in the order in which the guest names them: `vda` read-only, `vdb`
//! 5. network card, vsock, entropy, balloon
//! 6. the start
//!
//! Log and metrics are command-line options, so that nothing is lost before.

use std::time::Instant;

use sandbox::DiskLimits;

use crate::api::{
    Action, Balloon, BootSource, CacheType, Client, Drive, Entropy, MachineConfig,
    NetworkInterface, RateLimiter, TokenBucket, Vsock,
};
use crate::version::{Verdict, Version};
use crate::{Error, Result};

/// The guest's vsock CID. It is local to the monitor, so it is the same in every VM.
const GUEST_CID: u32 = 3;

/// What differs from VM to VM.
#[derive(Debug)]
pub struct Boot<'a> {
    /// Processors.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Whether it has a network card.
    pub has_network: bool,
    /// The limits of each of its disks: Firecracker cannot limit them together.
    pub disk_limits: DiskLimits,
}

/// Boots a VM. The guest runs when this returns.
pub fn boot(client: &mut Client, boot: &Boot<'_>, deadline: Instant) -> Result<()> {
    // 1 Version.
    check_version(client, deadline)?;
    // 2 Size.
    let machine = MachineConfig { vcpu_count: boot.vcpus, mem_size_mib: boot.memory_mib };
    client.send(&machine, deadline)?;
    // 3 Kernel.
    let source = BootSource {
        kernel_image_path: "kernel",
        initrd_path: "initramfs",
        boot_args: boot.command_line,
    };
    client.send(&source, deadline)?;
    // 4 Disks.
    let rate_limiter = rate_limiter(boot.disk_limits);
    client.send(&Drive { rate_limiter, ..drive("rootfs", true) }, deadline)?;
    client.send(&Drive { rate_limiter, ..drive("disk", false) }, deadline)?;
    // 5 Devices.
    if boot.has_network {
        let guest_mac = netns::guest::MAC.map(|byte| format!("{byte:02x}")).join(":");
        let card = NetworkInterface {
            iface_id: "eth0",
            host_dev_name: netns::guest::TAP,
            guest_mac: &guest_mac,
        };
        client.send(&card, deadline)?;
    }
    client.send(&Vsock { guest_cid: GUEST_CID, uds_path: "v.sock" }, deadline)?;
    client.send(&Entropy {}, deadline)?;
    let stats_polling_interval_s = u16::MAX;
    client.send(
        &Balloon { amount_mib: 0, deflate_on_oom: true, stats_polling_interval_s },
        deadline,
    )?;
    // 6 Boot.
    client.send(&Action::InstanceStart, deadline)
}

/// An error for a version that must not be used; else its verdict.
pub(crate) fn check_version(client: &mut Client, deadline: Instant) -> Result<Verdict> {
    let text = client.instance_info(deadline)?.vmm_version;
    let verdict = Version::parse(&text).map_or(Verdict::Unknown, Version::judge);
    match verdict {
        Verdict::Good => {}
        Verdict::Weak(reason) => {
            log::warn!("firecracker's version has known faults; version={text} reason={reason:?}");
        }
        Verdict::Unknown => {
            log::warn!("firecracker's version is unknown; version={text:?}");
        }
        Verdict::Unfit(reason) => return Err(Error::Version { version: text, reason }),
    }
    Ok(verdict)
}

/// Writes are not synced to the host's disk: a VM's disk is removed with it.
fn drive(name: &str, is_read_only: bool) -> Drive<'_> {
    Drive {
        drive_id: name,
        path_on_host: name,
        is_root_device: false,
        is_read_only,
        cache_type: CacheType::Unsafe,
        rate_limiter: None,
    }
}

/// `None` without a limit: Firecracker takes a bucket of size 0 as unlimited.
fn rate_limiter(limits: DiskLimits) -> Option<RateLimiter> {
    let each_second = |size| TokenBucket { size, refill_time: 1000 };
    let limiter = RateLimiter {
        bandwidth: limits.bytes_per_second.map(each_second),
        ops: limits.operations_per_second.map(each_second),
    };
    (limits != DiskLimits::default()).then_some(limiter)
}
