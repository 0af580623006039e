//! What a monitor may do, as the host sees it: QEMU, Firecracker, and Firecracker by its own jailer
//! (`RUNNER_FIRECRACKER_JAILER`, which `tests/vm/lab` sets).

use std::fs;
use std::path::{Path, PathBuf};

use crate::faults::members;
use crate::host::{Host, names};
use crate::runner::Runner;

/// A VM that runs, and what the kernel knows of its monitor.
fn start(runner: &Runner) -> PathBuf {
    runner.succeed(&["run", "-d", "--name", "box"]);
    Path::new("/proc").join(members(runner)[0].to_string())
}

#[test]
#[ignore = "needs root and QEMU"]
fn a_monitor_has_a_user_and_a_network_of_its_own_and_no_privileges() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let monitor = start(&runner);

    let status = fs::read_to_string(monitor.join("status")).unwrap();
    let environment = fs::read(monitor.join("environ")).unwrap();
    let networks = [monitor.as_path(), Path::new("/proc/self")]
        .map(|process| fs::read_link(process.join("ns/net")).unwrap());
    runner.succeed(&["stop", "box"]);

    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        line.unwrap().trim().to_owned()
    };
    let users: Vec<u32> = field("Uid").split('\t').map(|id| id.parse().unwrap()).collect();
    assert!(users.iter().all(|user| *user >= 0x7800_0000), "{users:?}");
    assert_eq!(field("Uid"), field("Gid"));
    assert_eq!(field("NoNewPrivs"), "1");
    let none = "0000000000000000";
    assert_eq!([field("CapPrm"), field("CapEff"), field("CapAmb")], [none; 3]);
    assert_eq!(environment, b"");
    assert_ne!(networks[0], networks[1]);
    runner.assert_nothing_left(&before);
}

#[test]
#[ignore = "needs root, Firecracker and KVM"]
fn firecracker_sees_no_file_but_its_vms() {
    let runner = Runner::new();
    let before = Host::look(runner.state());
    let monitor = start(&runner);
    let is_firecracker = runner.succeed(&["ps"]).contains("firecracker");

    let seen = names(&monitor.join("root"));
    let own = names(&runner.state().join("vms").join(&runner.vms()[0]).join("vmm"));
    runner.succeed(&["stop", "box"]);

    if !is_firecracker {
        return host_test::skip("the VM is QEMU's: Firecracker is not found, or lacks KVM");
    }
    assert!(own.contains("kernel"), "{own:?}");
    assert_eq!(seen, own);
    // A folder that its jailer makes, and we do not.
    let is_jailed = std::env::var_os("RUNNER_FIRECRACKER_JAILER").is_some();
    assert_eq!(own.contains("run"), is_jailed, "{own:?}");
    runner.assert_nothing_left(&before);
}
