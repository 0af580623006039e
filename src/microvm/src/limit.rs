//! The cgroup limits of a VM, and whether the OOM killer ended it.
//!
//! The limit of a controller that is not delegated to the runner is not in force; `runner doctor` reports
//! this.

mod device;

use std::fs;
use std::path::Path;

use base::error::chain;
use process::{Cgroup, MemoryEvents};
use sandbox::{DiskLimits, SandboxConfig};

use crate::{Error, Result};

/// The controllers that set limits.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];
/// The file with the disk limits.
const DISK: &str = "io.max";
/// The most processes and threads: more than any monitor has.
const TASKS: u32 = 512;
/// The CPU weight per vCPU: the kernel's default.
const WEIGHT: u32 = 100;
/// The period of the CPU quota in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// The file with the controllers that a cgroup enables for its children.
const SUBTREE_CONTROL: &str = "cgroup.subtree_control";

/// Enables the controllers for the children of `parent`, which is below `root`.
pub(crate) fn prepare(root: &Path, parent: &Path) {
    // After the first VM there is nothing to do.
    if disabled(&parent.join(SUBTREE_CONTROL)).is_empty() {
        return;
    }
    for folder in [root, parent] {
        let (path, unavailable) = (folder.join(SUBTREE_CONTROL), missing(folder));
        for controller in disabled(&path).into_iter().filter(|name| !unavailable.contains(name)) {
            if let Err(error) = fs::write(&path, format!("+{controller}")) {
                log::debug!(
                    "cannot enable a controller; controller={controller} path={} error={error}",
                    path.display()
                );
            }
        }
    }
}

/// The controllers that are not available below `root`.
pub(crate) fn missing(root: &Path) -> Vec<&'static str> {
    disabled(&root.join("cgroup.controllers"))
}

/// The controllers that the file `list` does not name.
fn disabled(list: &Path) -> Vec<&'static str> {
    let given = fs::read_to_string(list).unwrap_or_default();
    CONTROLLERS.into_iter().filter(|name| !given.split_whitespace().any(|it| it == *name)).collect()
}

/// Limits a VM to its memory and vCPUs and its monitor's overhead, and sets its CPU weight. Its files are
/// on the disk of `state`.
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
        // A VM does not survive the loss of one process.
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

/// One CPU more than the guest has vCPUs, for the monitor's disk, network and guest-link threads.
fn processors(vcpus: u32) -> String {
    format!("{} {PERIOD}", (u64::from(vcpus) + 1) * PERIOD)
}

/// Sets the disk limits in the kernel, in addition to the monitor's own. They hold for a hostile monitor,
/// for both disks together, and per direction.
fn limit_disk(cgroup: &Cgroup, limits: DiskLimits, state: &Path) {
    if limits == DiskLimits::default() || !cgroup.path().join(DISK).exists() {
        return;
    }
    let Some(device) = device::disk_of(state) else {
        return log::debug!("no disk to limit; path={}", state.display());
    };
    // The monitor has limits of its own.
    if let Err(error) = cgroup.write(DISK, &rates(&device, limits)) {
        log::warn!("the kernel does not limit a disk; error={}", chain(&error));
    }
}

fn rates(device: &str, limits: DiskLimits) -> String {
    let rate = |rate: Option<u64>| rate.map_or_else(|| "max".to_owned(), |rate| rate.to_string());
    let (bytes, operations) = (rate(limits.bytes_per_second), rate(limits.operations_per_second));
    format!("{device} rbps={bytes} wbps={bytes} riops={operations} wiops={operations}")
}

/// Why the OOM killer ended a VM, if it did.
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
    fn a_reached_memory_limit_is_distinguished_from_a_host_without_memory() {
        let verdict = |oom_kills, limit_reached| verdict(MemoryEvents { limit_reached, oom_kills });
        assert_eq!(verdict(0, 0), None);
        assert!(verdict(1, 1).unwrap().starts_with("its monitor"));
        assert!(verdict(1, 0).unwrap().starts_with("the host"));
    }

    #[test]
    fn a_vm_has_one_cpu_more_than_its_guest_has_vcpus() {
        assert_eq!(processors(2), "300000 100000");
    }

    #[test]
    fn a_disk_limit_holds_for_reads_and_for_writes() {
        let limits = DiskLimits { operations_per_second: Some(50), ..DiskLimits::default() };
        assert_eq!(rates("8:0", limits), "8:0 rbps=max wbps=max riops=50 wiops=50");
    }

    #[test]
    #[ignore = "needs root, and cgroup v2 with its io controller"]
    fn the_kernel_limits_the_disk_of_the_state_folder() {
        let root = process::mount_point().unwrap();
        let parent = root.join(crate::reclaim::CGROUP_PARENT);
        let cgroup = Cgroup::create(&parent, &format!("disk-{}", std::process::id())).unwrap();
        prepare(&root, &parent);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (true, Some(device)) = (cgroup.path().join(DISK).exists(), device::disk_of(folder))
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
    fn a_process_over_the_memory_limit_is_killed_and_the_reason_is_reported() {
        let root = process::mount_point().unwrap();
        let parent = root.join(crate::reclaim::CGROUP_PARENT);
        let name = format!("limit-{}", std::process::id());
        let cgroup = Cgroup::create(&parent, &name).unwrap();
        prepare(&root, &parent);
        if !cgroup.path().join("memory.max").exists() {
            return host_test::skip("no memory controller");
        }
        cgroup.write("memory.max", &(16 << 20).to_string()).unwrap();
        let hog = Command::new("tail").arg("/dev/zero").cgroup(&cgroup).spawn().unwrap();

        let status = hog.wait_until(Instant::now() + Duration::from_secs(60)).unwrap();

        assert!(matches!(status, Some(Status::Signalled { signal: 9, .. })), "{status:?}");
        assert!(out_of_memory(&cgroup).unwrap().starts_with("its monitor"));
    }
}
