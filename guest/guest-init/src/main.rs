//! PID 1 of the guest, and the vsock service, which is the same program as its child.
//!
//! As `/init` of the initramfs it boots the machine (see [`boot`]), starts the service and looks
//! after it (see [`supervise`]), and turns the machine off (see [`power`]). Under the name
//! `vsock-service` it is the service (see [`service`]); under `/proc/1/exe` the kernel has it load
//! modules (see [`modprobe`]).

mod boot;
mod console;
mod device;
mod error;
mod machine;
mod memory;
mod modprobe;
mod module;
mod mount;
mod network;
mod power;
mod root;
mod service;
mod supervise;
mod sys;
mod sysctl;

pub(crate) use error::{Error, Result};

use std::env;
use std::process::{ExitCode, id};

fn main() -> ExitCode {
    console::log_errors();
    let mut arguments = env::args_os();
    let name = arguments.next();
    match name.as_deref().and_then(|name| name.to_str()) {
        Some(service::NAME) => return service::run(arguments.next()),
        Some(modprobe::NAME | modprobe::COMMAND) => return modprobe::run(arguments),
        _ => {}
    }
    if id() != 1 {
        eprintln!("guest-init: this is the init of a virtual machine, it runs as process 1 only");
        return ExitCode::from(2);
    }
    power::off_after_panic();
    match boot::boot() {
        Ok(disk) => supervise::supervise(&disk),
        Err(error) => power::fail(&base::error::chain(&error)),
    }
}
