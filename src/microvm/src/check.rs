//! Checks what a host must have, and what it should have, for VMs of any kind.

use std::path::Path;

use nix::errno::Errno;

use crate::kvm::{Kvm, probe};
use crate::{disk, limit, start_limiter};

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub subject: &'static str,
    /// The verdict.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

/// The verdict of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing to do.
    Good,
    /// VMs run, but slower or with fewer limits than they could.
    Weak,
    /// No VM runs without it.
    Missing,
}

/// Checks this host. Its VMs' folders are under `state`.
pub fn check(state: &Path) -> Vec<Finding> {
    vec![root(), cgroup(), limits(), start_limit(), kvm(), reflink(state)]
}

fn finding(subject: &'static str, state: State, detail: impl Into<String>) -> Finding {
    Finding { subject, state, detail: detail.into(), remedy: None }
}

fn root() -> Finding {
    if nix::unistd::geteuid().is_root() {
        return finding("user", State::Good, "root");
    }
    let remedy = Some("run it with sudo".to_owned());
    Finding {
        remedy,
        ..finding("user", State::Missing, "not root: no cgroups, users or namespaces")
    }
}

fn cgroup() -> Finding {
    let mounted = process::mount_point();
    match mounted {
        Ok(path) if path.join("cgroup.procs").exists() => {
            finding("cgroup v2", State::Good, path.display().to_string())
        }
        Ok(path) => finding("cgroup v2", State::Missing, format!("{} is empty", path.display())),
        Err(error) => {
            let remedy = Some("mount -t cgroup2 none /sys/fs/cgroup".to_owned());
            Finding { remedy, ..finding("cgroup v2", State::Missing, error.to_string()) }
        }
    }
}

fn limits() -> Finding {
    let missing = process::mount_point().map(|root| limit::missing(&root)).unwrap_or_default();
    if missing.is_empty() {
        return finding("limits of VMs", State::Good, "processors, memory, processes, disks");
    }
    let detail = format!("cgroup v2 has no {} here: VMs have no such limits", missing.join(", "));
    let remedy = Some("boot with cgroup_no_v1=all, or delegate the controllers".to_owned());
    Finding { remedy, ..finding("limits of VMs", State::Weak, detail) }
}

fn start_limit() -> Finding {
    match start_limiter::capacity() {
        Ok(0) => finding("start limit", State::Good, "is created by the first start"),
        Ok(tokens) => {
            let detail = format!("VMs with {tokens} vCPUs in total start at once");
            finding("start limit", State::Good, detail)
        }
        Err(errno) => {
            let detail = format!("no semaphores ({errno}): a burst of starts may time out");
            let remedy = match errno {
                Errno::ENOSYS => "use a kernel with CONFIG_SYSVIPC".to_owned(),
                // Another program uses the key.
                _ => format!("ipcrm -S {:#x}", start_limiter::KEY),
            };
            let remedy = Some(remedy);
            Finding { remedy, ..finding("start limit", State::Weak, detail) }
        }
    }
}

fn kvm() -> Finding {
    match probe() {
        Kvm::Works => finding("KVM", State::Good, "works"),
        Kvm::Missing { reason } => {
            let remedy =
                Some("enable virtualization, then: modprobe kvm_intel or kvm_amd".to_owned());
            let detail = format!("{reason}; VMs are emulated, 10 to 30 times slower");
            Finding { remedy, ..finding("KVM", State::Weak, detail) }
        }
    }
}

/// Whether the file system of the state folder has reflinks.
fn reflink(state: &Path) -> Finding {
    let there = state.ancestors().find(|folder| folder.is_dir()).unwrap_or(state);
    match disk::can_reflink(there) {
        Ok(true) => finding("disk clones", State::Good, "share blocks (reflink)"),
        Ok(false) => {
            let remedy = Some(format!("put {} on btrfs or XFS", state.display()));
            let detail = "are sparse copies: the file system has no reflinks";
            Finding { remedy, ..finding("disk clones", State::Weak, detail) }
        }
        Err(error) => {
            let detail = format!("cannot be checked in {}: {error}", there.display());
            finding("disk clones", State::Weak, detail)
        }
    }
}
