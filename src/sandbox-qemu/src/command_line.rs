//! QEMU's command line.
//!
//! All paths are relative: QEMU runs in the VM's folder. Nothing in it is secret.

use std::ffi::OsString;

use microvm::Launch;
use sandbox::DiskLimits;

/// Makes a guest's reboot end QEMU (with `-no-reboot`): `microvm` has no other way to power off.
const REBOOT: &str = "reboot=t";

/// QEMU's inherited descriptors: its end of QMP, the tap.
const QMP_FD: u32 = 3;
const TAP_FD: u32 = 4;

/// What executes the guest's instructions.
pub(crate) enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg {
        /// The rate of the host's time-stamp counter, which is also the guest's.
        tsc_khz: Option<u64>,
    },
}

impl Accelerator {
    fn arguments(&self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Without `erms` a kernel copies eight bytes at a time, not one: emulated, each step of
            // a string instruction costs the same.
            Self::Tcg { .. } => ["-accel", "tcg,tb-size=256", "-cpu", "max,-erms"],
        }
    }

    fn kernel_parameter(&self) -> Option<String> {
        match self {
            Self::Tcg { tsc_khz: Some(rate) } => Some(format!("tsc_early_khz={rate}")),
            Self::Tcg { tsc_khz: None } | Self::Kvm => None,
        }
    }
}

/// The arguments for one VM.
pub(crate) fn arguments(launch: &Launch<'_>, accelerator: &Accelerator) -> Vec<OsString> {
    let config = launch.config;
    let mut arguments = Arguments::default();
    arguments.flags(&["-nodefaults", "-no-user-config", "-no-reboot", "-nographic"]);
    arguments.pair(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    arguments.pair("-name", format!("vm-{}", config.id));
    // A shared memfd, as the vhost-user device maps the guest's memory.
    let memory = format!("{}M", config.memory_mib);
    arguments.pair("-M", "microvm,pcie=off,memory-backend=mem0");
    arguments.pair("-object", format!("memory-backend-memfd,id=mem0,size={memory},share=on"));
    arguments.pair("-m", memory);
    arguments.pair("-smp", config.vcpus.to_string());
    arguments.flags(&accelerator.arguments());
    arguments.pair("-kernel", "kernel");
    arguments.pair("-initrd", "initramfs");
    let mut kernel = vec![microvm::kernel_command_line(), REBOOT.to_owned()];
    kernel.extend(accelerator.kernel_parameter());
    arguments.pair("-append", kernel.join(" "));
    arguments.pair("-serial", "stdio");
    // In the order in which the guest names them: vda, vdb.
    arguments.drive("rootfs", "on", config.disk_limits);
    arguments.drive("disk", "off", config.disk_limits);
    if launch.network.is_some() {
        arguments.pair("-netdev", format!("tap,id=net,fd={TAP_FD}"));
        let mac = netns::guest::MAC.map(|byte| format!("{byte:02x}")).join(":");
        arguments.pair("-device", format!("virtio-net-device,netdev=net,mac={mac}"));
    }
    arguments.pair("-device", "virtio-rng-device");
    // Out of memory, the guest deflates the balloon.
    arguments.pair("-device", "virtio-balloon-device,deflate-on-oom=on");
    arguments.pair("-chardev", format!("socket,id=qmp,fd={QMP_FD}"));
    arguments.pair("-mon", "chardev=qmp,mode=control");
    arguments.pair("-chardev", "socket,id=vsock,path=vhost.sock");
    arguments.pair("-device", "vhost-user-vsock-device,chardev=vsock");
    arguments.0
}

#[derive(Default)]
struct Arguments(Vec<OsString>);

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.extend([option.into(), value.into()]);
    }

    fn drive(&mut self, file: &str, readonly: &str, limits: DiskLimits) {
        let drive = format!("id={file},file={file},format=raw,if=none,readonly={readonly}");
        self.pair("-drive", drive + &throttling(limits));
        // An error is the guest's to handle: by default a full host would stop the VM without a word.
        let device = format!("virtio-blk-device,drive={file},werror=report,rerror=report");
        self.pair("-device", device);
    }
}

/// The throttling group that both disks share; none without limits.
fn throttling(limits: DiskLimits) -> String {
    let limit = |name, rate: Option<u64>| {
        rate.map(|rate| format!(",throttling.{name}={rate}")).unwrap_or_default()
    };
    let bytes = limit("bps-total", limits.bytes_per_second);
    let operations = limit("iops-total", limits.operations_per_second);
    let group = if limits == DiskLimits::default() { "" } else { ",throttling.group=disks" };
    [group, &bytes, &operations].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drive(limits: DiskLimits) -> String {
        let mut arguments = Arguments::default();
        arguments.drive("disk", "off", limits);
        arguments.0[1].clone().into_string().unwrap()
    }

    #[test]
    fn a_disk_without_limits_is_not_throttled() {
        let drive = drive(DiskLimits::default());
        assert_eq!(drive, "id=disk,file=disk,format=raw,if=none,readonly=off");
    }

    #[test]
    fn both_disks_share_one_throttle_group() {
        let limits =
            DiskLimits { bytes_per_second: Some(1_000_000), operations_per_second: Some(50) };
        let throttled =
            ",throttling.group=disks,throttling.bps-total=1000000,throttling.iops-total=50";
        assert!(drive(limits).ends_with(throttled), "{}", drive(limits));
        let operations = DiskLimits { bytes_per_second: None, ..limits };
        assert!(drive(operations).ends_with("off,throttling.group=disks,throttling.iops-total=50"));
    }
}
