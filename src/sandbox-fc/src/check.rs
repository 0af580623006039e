//! Checks a host's Firecracker.

use std::path::Path;

use microvm::{Finding, Kvm, State};

use crate::version::Verdict;
use crate::{Jailer, Program};

const RELEASES: &str =
    "get 1.15.1 or later from github.com/firecracker-microvm/firecracker/releases";

/// Checks Firecracker, at `path` if it is given. It is never reported as missing: QEMU replaces it.
pub fn check(path: Option<&Path>) -> Finding {
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
        (Verdict::Unfit(reason), _) => {
            Finding { state: State::Missing, ..weak(format!("{detail}: {reason}"), RELEASES) }
        }
        (_, Ok(program)) if !program.is_static => {
            weak(format!("{detail}, is not static, so it sees the host's files"), RELEASES)
        }
        _ => match microvm::probe() {
            Kvm::Works => Finding { state: State::Good, remedy: None, ..weak(detail, RELEASES) },
            Kvm::Missing { .. } => weak(
                format!("{detail}, cannot be used without KVM"),
                "see KVM above; until then QEMU runs the VMs",
            ),
        },
    }
}

/// Checks the jailer at `path`.
pub fn check_jailer(path: &Path, firecracker: Option<&Path>) -> Finding {
    let remedy = Some("name the `jailer` of Firecracker's own release, or none".to_owned());
    let finding = |state, detail, remedy| Finding { subject: "jailer", state, detail, remedy };
    let Some(program) = Program::find(firecracker) else {
        let detail = "is not used without Firecracker".to_owned();
        return finding(State::Weak, detail, Some(RELEASES.to_owned()));
    };
    match Jailer::find(path, &program) {
        Ok(_) => {
            let detail = format!("{}, of Firecracker's version", path.display());
            finding(State::Good, detail, None)
        }
        Err(error) => finding(State::Missing, error.to_string(), remedy),
    }
}

fn weak(detail: impl Into<String>, remedy: &str) -> Finding {
    let (subject, state) = ("firecracker", State::Weak);
    Finding { subject, state, detail: detail.into(), remedy: Some(remedy.to_owned()) }
}
