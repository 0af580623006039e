//! Whether KVM really works here.
//!
//! `/dev/kvm` alone says little: where it is paravirtual, an unmodified kernel hangs on it. It
//! counts only where the processor's own module is loaded and a trial VM can be made.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys;

const DEVICE: &str = "/dev/kvm";

/// What is known of KVM on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It works.
    Works,
    /// It does not, and why.
    Missing {
        /// The reason, for people.
        reason: String,
    },
}

/// Tries KVM.
pub fn probe() -> Kvm {
    match try_probe() {
        Ok(()) => Kvm::Works,
        Err(reason) => Kvm::Missing { reason },
    }
}

fn try_probe() -> Result<(), String> {
    let hardware = ["kvm_intel", "kvm_amd"]
        .iter()
        .any(|module| Path::new("/sys/module").join(module).exists());
    if cfg!(target_arch = "x86_64") && !hardware {
        return Err("neither kvm_intel nor kvm_amd is loaded".into());
    }
    let device = File::options().read(true).write(true).open(DEVICE);
    let device = device.map_err(|error| format!("cannot open {DEVICE}: {error}"))?;
    sys::try_kvm(&device).map_err(|error| format!("cannot make a trial VM: {error}"))?;
    if !is_for_others(&device) {
        return Err(format!("{DEVICE} is for root alone: chgrp kvm {DEVICE}; chmod 660 {DEVICE}"));
    }
    Ok(())
}

/// Monitors run as users of their own, with the device's group if it has one.
fn is_for_others(device: &File) -> bool {
    device.metadata().is_ok_and(|device| {
        device.mode() & 0o006 == 0o006 || (device.mode() & 0o060 == 0o060 && device.gid() != 0)
    })
}
