//! Checks a host's Firecracker.

use std::path::Path;

use microvm::{CheckState, HostCheck, Kvm};

use crate::version::Verdict;
use crate::{Jailer, Program};

const RELEASES: &str =
    "get 1.15.1 or later from github.com/firecracker-microvm/firecracker/releases";

/// Checks Firecracker, at `path` if it is given. It is never reported as missing: QEMU replaces it.
pub fn check(path: Option<&Path>) -> HostCheck {
    let Some(program) = Program::find(path) else {
        return weak("not found: QEMU runs the VMs, without snapshots", RELEASES);
    };
    let version = match program.version() {
        Ok(version) => version,
        Err(error) => return weak(error.to_string(), RELEASES),
    };
    let detail = format!("{version}, {}", program.path().display());
    match (version.judge(), program.open()) {
        (Verdict::Weak(reason), _) => weak(format!("{detail}: {reason}"), RELEASES),
        (Verdict::Unfit(reason), _) => HostCheck {
            state: CheckState::Missing,
            ..weak(format!("{detail}: {reason}"), RELEASES)
        },
        (_, Ok(program)) if !program.is_static => {
            weak(format!("{detail}, is not static, so it sees the host's files"), RELEASES)
        }
        _ => match microvm::probe() {
            Kvm::Works => {
                HostCheck { state: CheckState::Good, remedy: None, ..weak(detail, RELEASES) }
            }
            Kvm::Missing { .. } => weak(
                format!("{detail}, cannot be used without KVM"),
                "see KVM above; until then QEMU runs the VMs",
            ),
        },
    }
}

/// Checks the jailer at `path`.
pub fn check_jailer(path: &Path, firecracker: Option<&Path>) -> HostCheck {
    let remedy = Some("name the `jailer` of Firecracker's own release, or none".to_owned());
    let host_check = |state, detail, remedy| HostCheck { subject: "jailer", state, detail, remedy };
    let Some(program) = Program::find(firecracker) else {
        let detail = "is not used without Firecracker".to_owned();
        return host_check(CheckState::Weak, detail, Some(RELEASES.to_owned()));
    };
    match Jailer::find(path, &program) {
        Ok(_) => {
            let detail = format!("{}, of Firecracker's version", path.display());
            host_check(CheckState::Good, detail, None)
        }
        Err(error) => host_check(CheckState::Missing, error.to_string(), remedy),
    }
}

fn weak(detail: impl Into<String>, remedy: &str) -> HostCheck {
    let (subject, state) = ("firecracker", CheckState::Weak);
    HostCheck { subject, state, detail: detail.into(), remedy: Some(remedy.to_owned()) }
}
