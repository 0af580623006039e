//! What a VM may use of its host, and whether it was killed for using more.
//!
//! Where a controller is not given to us, its limit is not in force: `runner doctor` says so.

mod device;

use std::fs;
use std::path::Path;

use process::{Cgroup, MemoryEvents};
use sandbox::{DiskLimits, SandboxConfig};

use crate::error::chain;
use crate::{Error, Result};

/// The controllers that limits are set by.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// The file with the limits of disks.
const DISK: &str = "io.max";
/// More processes and threads than any monitor has.
const TASKS: u32 = 512;
/// What the kernel's default is to a VM with one processor.
const WEIGHT: u32 = 100;
/// What a quota of processors is for, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// The controllers that a cgroup gives those below it.
const GIVEN: &str = "cgroup.subtree_control";

/// Lets the cgroups below `parent`, which is below `root`, have limits.
pub(crate) fn prepare(root: &Path, parent: &Path) {
    // What it gives it was given itself, so for all VMs but the first there is nothing to do.
    if lacking(&parent.join(GIVEN)).is_empty() {
        return;
    }
    for folder in [root, parent] {
        let (path, had_not) = (folder.join(GIVEN), missing(folder));
        for controller in lacking(&path).into_iter().filter(|name| !had_not.contains(name)) {
            if let Err(error) = fs::write(&path, format!("+{controller}")) {
                log::debug!("no limits by {controller}; path={} error={error}", path.display());
            }
        }
    }
}

/// The controllers that do not reach a VM.
pub(crate) fn missing(root: &Path) -> Vec<&'static str> {
    lacking(&root.join("cgroup.controllers"))
}

/// The controllers that a list does not name.
fn lacking(list: &Path) -> Vec<&'static str> {
    let given = fs::read_to_string(list).unwrap_or_default();
    CONTROLLERS.into_iter().filter(|name| !given.split_whitespace().any(|it| it == *name)).collect()
}

/// Limits a VM, whose files are on the disk of `state`, to its memory and processors and what its
/// monitor needs besides, and gives it its share of processors where there are too few.
pub(crate) fn apply(
    cgroup: &Cgroup,
    config: &SandboxConfig,
    overhead_mib: u32,
    state: &Path,
) -> Result<()> {
    let memory = u64::from(config.memory_mib) + u64::from(overhead_mib);
    let weight = config.vcpus.saturating_mul(WEIGHT).min(10_000);
    for (file, value) in [
        ("memory.max", (memory << 20).to_string()),
        // Half a VM is none.
        ("memory.oom.group", "1".to_owned()),
        ("pids.max", TASKS.to_string()),
        ("cpu.weight", weight.to_string()),
        ("cpu.max", processors(config.vcpus)),
    ] {
        if cgroup.path().join(file).exists() {
            cgroup.write(file, &value).map_err(Error::Process)?;
        }
    }
    limit_disk(cgroup, config.disk_limits, state);
    Ok(())
}

/// One processor more than the guest has: what its monitor does for it, disks, network and guest
/// link, is then not taken from the guest's, and bounded all the same.
fn processors(vcpus: u32) -> String {
    format!("{} {PERIOD}", (u64::from(vcpus) + 1) * PERIOD)
}

/// The disk's limits again, by the kernel: they hold for a monitor that does not keep to them, too,
/// and for both of its disks together, each direction by itself.
fn limit_disk(cgroup: &Cgroup, limits: DiskLimits, state: &Path) {
    if limits == DiskLimits::default() || !cgroup.path().join(DISK).exists() {
        return;
    }
    let Some(device) = device::beneath(state) else {
        return log::debug!("no disk to limit; path={}", state.display());
    };
    // The monitor keeps to them anyway.
    if let Err(error) = cgroup.write(DISK, &rates(&device, limits)) {
        log::warn!("the kernel does not limit a disk; error={}", chain(&error));
    }
}

fn rates(device: &str, limits: DiskLimits) -> String {
    let rate = |rate: Option<u64>| rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
    let (bytes, operations) = (rate(limits.bytes_per_second), rate(limits.operations_per_second));
    format!("{device} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}")
}

/// Why the kernel killed a VM for want of memory, if it did.
pub(crate) fn out_of_memory(cgroup: &Cgroup) -> Option<&'static str> {
    verdict(cgroup.memory_events().ok()?)
}

fn verdict(events: MemoryEvents) -> Option<&'static str> {
    match (events.oom_kills, events.limit_reached) {
        (0, _) => None,
        (_, 0) => Some("the host ran out of memory"),
        _ => Some("its monitor needed more memory than the VM has"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use process::{Command, Status};

    use super::*;

    #[test]
    fn a_limit_of_its_own_is_told_from_a_host_without_memory() {
        let verdict = |oom_kills, limit_reached| verdict(MemoryEvents { limit_reached, oom_kills });
        assert_eq!(verdict(0, 0), None);
        assert!(verdict(1, 1).unwrap().starts_with("its monitor"));
        assert!(verdict(1, 0).unwrap().starts_with("the host"));
    }

    #[test]
    fn a_vm_has_a_processor_more_than_its_guest() {
        assert_eq!(processors(2), "300000 100000");
    }

    #[test]
    fn a_disk_is_limited_in_both_directions_by_what_was_said() {
        let limits = DiskLimits { operations_per_second: Some(50), ..DiskLimits::default() };
        assert_eq!(rates("8:0", limits), "8:0 rbps=max wbps=max riops=50 wiops=50");
    }

    #[test]
    #[ignore = "needs root, and cgroup v2 with its io controller"]
    fn the_disk_beneath_is_limited_by_the_kernel() {
        let root = process::mount_point().unwrap();
        let parent = root.join(crate::reclaim::CGROUP_PARENT);
        let cgroup = Cgroup::create(&parent, &format!("disk-{}", std::process::id())).unwrap();
        prepare(&root, &parent);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (true, Some(device)) = (cgroup.path().join(DISK).exists(), device::beneath(folder))
        else {
            return host_test::skip("no io controller, or no disk");
        };
        let limits =
            DiskLimits { bytes_per_second: Some(1 << 20), operations_per_second: Some(50) };

        limit_disk(&cgroup, limits, folder);

        let told = fs::read_to_string(cgroup.path().join(DISK)).unwrap();
        let expected = "rbps=1048576 wbps=1048576 riops=50 wiops=50";
        assert_eq!(told.trim_end(), format!("{device} {expected}"));
    }

    #[test]
    #[ignore = "needs root and cgroup v2 with its memory controller"]
    fn who_takes_too_much_memory_is_killed_and_that_is_known() {
        let root = process::mount_point().unwrap();
        let parent = root.join(crate::reclaim::CGROUP_PARENT);
        let name = format!("limit-{}", std::process::id());
        let cgroup = Cgroup::create(&parent, &name).unwrap();
        prepare(&root, &parent);
        if !cgroup.path().join("memory.max").exists() {
            return host_test::skip("no memory controller");
        }
        cgroup.write("memory.max", &(16 << 20).to_string()).unwrap();
        let hungry = Command::new("tail").arg("/dev/zero").cgroup(&cgroup).spawn().unwrap();

        let status = hungry.wait_until(Instant::now() + Duration::from_secs(60)).unwrap();

        assert!(matches!(status, Some(Status::Signalled { signal: 9, .. })), "{status:?}");
        assert!(out_of_memory(&cgroup).unwrap().starts_with("its monitor"));
    }
}
