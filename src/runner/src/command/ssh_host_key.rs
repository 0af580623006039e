//! `runner ssh-host-key`: prints the host key of a VM for `KnownHostsCommand` of ssh.

use crate::error::Result;
use crate::options::Global;
use crate::output;
use crate::ssh::{self, Server};
use crate::vmm::{self, Host};

/// Print the host key of a VM in the format of known_hosts
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Host name of the VM, such as web.vm
    host: String,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let record = vmm::find(&global.state_dir, ssh::vm_of(&arguments.host))?;
    let host = Host::open(&global.state_dir)?;
    let sandbox = host.attach(&record)?;
    let key = Server::new(&*sandbox).host_key()?;
    output::line(format_args!("{} {key}", arguments.host))?;
    Ok(0)
}
