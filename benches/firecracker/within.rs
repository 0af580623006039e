//! VMs of this process, as a service has them.

use std::path::PathBuf;

use sandbox::{
    Cancellation, Event, ExecRequest, Image, Sandbox, SandboxConfig, SandboxFactory, SandboxId,
};

use crate::{Bench, soon};

pub(crate) fn factory(bench: &Bench) -> impl SandboxFactory + use<> {
    let named = std::env::var_os("FIRECRACKER").map(PathBuf::from);
    let program = sandbox_fc::Program::find(named.as_deref()).unwrap();
    let is_off = std::env::var("RUNNER_FIRECRACKER_SECCOMP").is_ok_and(|filter| filter == "off");
    let config = sandbox_fc::Config { program, jailer: None, seccomp: !is_off };
    sandbox_fc::factory(&bench.state, &bench.reactor, config)
}

/// One that has run a command.
pub(crate) fn start(factory: &dyn SandboxFactory, bench: &Bench) -> Box<dyn Sandbox> {
    let image = rootfs::Store::open(&bench.state).unwrap().get("default").unwrap();
    let config = SandboxConfig {
        id: SandboxId::random().unwrap(),
        name: None,
        labels: Default::default(),
        image: Image {
            kernel: image.kernel,
            initramfs: image.initramfs,
            rootfs: image.rootfs,
            disk_template: image.disk_template,
        },
        vcpus: 1,
        memory_mib: 256,
        disk_limits: sandbox::DiskLimits::default(),
        network: None,
        hostname: "bench".into(),
        timezone: None,
        host_authorities: Vec::new(),
    };
    let vm = factory.start(&config, &Cancellation::new(), soon()).unwrap();
    assert!(vm.start_report().stages.iter().any(|(stage, _)| *stage == "reconnect"));
    let argv = vec!["true".into()];
    let command = vm.exec(&ExecRequest { argv, ..ExecRequest::default() }, soon()).unwrap();
    while let Event::Output(..) = command.next(Some(soon())).unwrap() {}
    drop(command);
    vm
}
