//! `runner stop`: stops running VMs.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::options::Global;
use crate::output;
use crate::vmm::{self, Host};

/// Stop running VMs
///
/// Prints the name of each stopped VM, after all of its resources are gone.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Time to shut down before a VM is killed
    #[arg(long, value_name = "TIME", value_parser = base::duration::parse, default_value = "10s")]
    timeout: Duration,

    /// Names or ids of the VMs; a unique prefix of an id is enough
    #[arg(required = true)]
    vm: Vec<String>,
}

/// Runs the sub-command. A failure does not prevent the other VMs from being stopped.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let host = Host::open(&global.state_dir)?;
    let stop = |name: &String| {
        let record = vmm::find(&global.state_dir, name)?;
        vmm::stop(&host, &record, Instant::now() + arguments.timeout)?;
        output::line(name)
    };
    let mut results: Vec<Result<()>> = arguments.vm.iter().map(stop).collect();
    if results.len() == 1 {
        return results.remove(0).map(|()| 0);
    }
    let total = results.len();
    let errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    for error in &errors {
        log::error!("{}", error.chain());
    }
    match errors.len() {
        0 => Ok(0),
        failed => Err(Error::NotStopped { failed, total }),
    }
}
