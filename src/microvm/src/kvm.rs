//! Whether KVM works here.
//!
//! `/dev/kvm` alone is not enough: an unmodified kernel hangs on a paravirtual one. KVM counts as working
//! if the processor's own module is loaded and a trial VM can be created.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::sys;

const DEVICE: &str = "/dev/kvm";

/// Whether KVM works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kvm {
    /// It works.
    Works,
    /// It does not work.
    Missing {
        /// The reason, as text.
        reason: String,
    },
}

/// Checks KVM by creating a trial VM.
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

/// Whether other users can open the device: monitors run under their own UIDs, with its group if it has one.
fn is_for_others(device: &File) -> bool {
    device.metadata().is_ok_and(|device| {
        device.mode() & 0o006 == 0o006 || (device.mode() & 0o060 == 0o060 && device.gid() != 0)
    })
}
