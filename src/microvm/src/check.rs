//! Checks what a host must have, and what it should have, for VMs of any kind.

use std::path::Path;

use nix::errno::Errno;

use crate::kvm::{Kvm, probe};
use crate::{disk, limit, start_limiter};

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostCheck {
    /// What was checked.
    pub subject: &'static str,
    /// The verdict.
    pub state: CheckState,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckState {
    /// Nothing to do.
    Good,
    /// VMs run, but slower or with fewer limits than they could.
    Weak,
    /// No VM runs without it.
    Missing,
}

/// Checks this host. Its VMs' folders are under `state`.
pub fn check(state: &Path) -> Vec<HostCheck> {
    vec![root(), cgroup(), limits(), start_limit(), kvm(), reflink(state)]
}

fn host_check(subject: &'static str, state: CheckState, detail: impl Into<String>) -> HostCheck {
    HostCheck { subject, state, detail: detail.into(), remedy: None }
}

fn root() -> HostCheck {
    if nix::unistd::geteuid().is_root() {
        return host_check("user", CheckState::Good, "root");
    }
    let remedy = Some("run it with sudo".to_owned());
    HostCheck {
        remedy,
        ..host_check("user", CheckState::Missing, "not root: no cgroups, users or namespaces")
    }
}

fn cgroup() -> HostCheck {
    let mounted = process::mount_point();
    match mounted {
        Ok(path) if path.join("cgroup.procs").exists() => {
            host_check("cgroup v2", CheckState::Good, path.display().to_string())
        }
        Ok(path) => {
            host_check("cgroup v2", CheckState::Missing, format!("{} is empty", path.display()))
        }
        Err(error) => {
            let remedy = Some("mount -t cgroup2 none /sys/fs/cgroup".to_owned());
            HostCheck { remedy, ..host_check("cgroup v2", CheckState::Missing, error.to_string()) }
        }
    }
}

fn limits() -> HostCheck {
    let missing = process::mount_point().map(|root| limit::missing(&root)).unwrap_or_default();
    if missing.is_empty() {
        return host_check(
            "limits of VMs",
            CheckState::Good,
            "processors, memory, processes, disks",
        );
    }
    let detail = format!("cgroup v2 has no {} here: VMs have no such limits", missing.join(", "));
    let remedy = Some("boot with cgroup_no_v1=all, or delegate the controllers".to_owned());
    HostCheck { remedy, ..host_check("limits of VMs", CheckState::Weak, detail) }
}

fn start_limit() -> HostCheck {
    match start_limiter::capacity() {
        Ok(0) => host_check("start limit", CheckState::Good, "is created by the first start"),
        Ok(tokens) => {
            let detail = format!("VMs with {tokens} vCPUs in total start at once");
            host_check("start limit", CheckState::Good, detail)
        }
        Err(errno) => {
            let detail = format!("no semaphores ({errno}): a burst of starts may time out");
            let remedy = match errno {
                Errno::ENOSYS => "use a kernel with CONFIG_SYSVIPC".to_owned(),
                // Another program uses the key.
                _ => format!("ipcrm -S {:#x}", start_limiter::KEY),
            };
            let remedy = Some(remedy);
            HostCheck { remedy, ..host_check("start limit", CheckState::Weak, detail) }
        }
    }
}

fn kvm() -> HostCheck {
    match probe() {
        Kvm::Works => host_check("KVM", CheckState::Good, "works"),
        Kvm::Missing { reason } => {
            let remedy =
                Some("enable virtualization, then: modprobe kvm_intel or kvm_amd".to_owned());
            let detail = format!("{reason}; VMs are emulated, 10 to 30 times slower");
            HostCheck { remedy, ..host_check("KVM", CheckState::Weak, detail) }
        }
    }
}

/// Whether the file system of the state folder has reflinks.
fn reflink(state: &Path) -> HostCheck {
    let there = state.ancestors().find(|folder| folder.is_dir()).unwrap_or(state);
    match disk::can_reflink(there) {
        Ok(true) => host_check("disk clones", CheckState::Good, "share blocks (reflink)"),
        Ok(false) => {
            let remedy = Some(format!("put {} on btrfs or XFS", state.display()));
            let detail = "are sparse copies: the file system has no reflinks";
            HostCheck { remedy, ..host_check("disk clones", CheckState::Weak, detail) }
        }
        Err(error) => {
            let detail = format!("cannot be checked in {}: {error}", there.display());
            host_check("disk clones", CheckState::Weak, detail)
        }
    }
}
