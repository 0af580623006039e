//! A failed start leaves nothing, whatever the failure.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use microvm::{Error, Factory, Launch, Launched, Result, Vmm};
use process::Command;
use sandbox::{Cancellation, DiskLimits, Image, SandboxConfig, SandboxFactory, SandboxId};
use vsock_host::Reactor;

/// A monitor that starts a process and then fails.
struct Failing(fn() -> Result<Launched>);

impl Vmm for Failing {
    fn kind(&self) -> &'static str {
        "failing"
    }

    fn overhead_mib(&self) -> u32 {
        0
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<Launched> {
        let sleep = Command::new("sleep").arg("1000").cgroup(launch.cgroup).spawn();
        // A leaked child must not survive: the cgroup is killed.
        std::mem::forget(sleep.map_err(Error::Process)?);
        (self.0)()
    }
}

fn config(state: &Path) -> SandboxConfig {
    let file = |name: &str| {
        let path = state.join(name);
        fs::write(&path, name).unwrap();
        path
    };
    let image = Image {
        kernel: file("kernel"),
        initramfs: file("initramfs"),
        rootfs: file("rootfs"),
        disk_template: file("disk"),
    };
    SandboxConfig {
        id: SandboxId::random().unwrap(),
        name: None,
        labels: BTreeMap::new(),
        image,
        vcpus: 1,
        memory_mib: 128,
        disk_limits: DiskLimits::default(),
        network: None,
        hostname: "box".into(),
        timezone: None,
        host_authorities: Vec::new(),
    }
}

/// The error of a failed start, after a check that nothing is left.
fn start(launch: fn() -> Result<Launched>) -> String {
    let state = tempfile::tempdir().unwrap();
    fs::set_permissions(state.path(), PermissionsExt::from_mode(0o711)).unwrap();
    let (config, reactor) = (config(state.path()), Reactor::start().unwrap());
    let factory = Factory::new(state.path(), &reactor, Failing(launch));
    let deadline = Instant::now() + Duration::from_secs(20);
    let error = factory.start(&config, &Cancellation::new(), deadline).err().unwrap();
    let id = config.id.to_string();
    let cgroups = process::mount_point().unwrap().join("sandbox-runner");
    assert!(!state.path().join("vms").join(&id).exists());
    assert!(!cgroups.join(&id).exists());
    std::error::Error::source(&error).unwrap().to_string()
}

#[test]
#[ignore = "needs root and cgroup v2"]
fn a_monitor_that_cannot_start_leaves_nothing() {
    let error = start(|| Err(Error::MissingProgram { program: "vmm", remedy: "install it" }));
    assert_eq!(error, "cannot find `vmm`: install it");
}

#[test]
#[ignore = "needs root and cgroup v2"]
fn a_panic_of_the_vms_thread_leaves_nothing() {
    let error = start(|| panic!("on purpose"));
    assert!(error.contains("panicked"), "{error}");
}
