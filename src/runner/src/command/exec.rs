//! `runner exec`: a command in a VM that runs.

use std::ffi::OsString;

use rootfs::{Defaults, Store};

use super::ps;
use crate::attend::{Job, attend};
use crate::error::Result;
use crate::interrupt::{First, Interrupt};
use crate::options::Global;
use crate::output::Output;
use crate::request::CommandArguments;
use crate::vmm::{self, Host, VmRecord};
use crate::{shortage, signal};

const EXAMPLES: &str = "\
Examples:
  runner exec web -- ps aux
  runner exec -it web -- bash
  tar c . | runner exec -i --user user --workdir /home/user/workspace web -- tar x

The exit code is the command's, 128+n if signal n ended it, 124 if its time was up, 127 if
its program is not there, 126 if it could not be started, and 125 if the runner itself failed.";

/// Run a command in a running VM
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    command_arguments: CommandArguments,

    /// Name, id, or the beginning of an id
    vm: String,

    /// The command and its arguments, as they are: no shell sees them
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Does it; returns the command's exit code.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let signals = signal::block()?;
    let record = vmm::find(&global.state_dir, &arguments.vm)?;
    let image = image_of(global, &record);
    let job = Job::new(arguments.command_arguments.request(arguments.command, &image)?);
    let host = Host::open(&global.state_dir)?;
    let interrupt = Interrupt::start(signals, First::Forward, host.cut())?;
    let mut output = Output::open()?.until(interrupt.called_off());
    let sandbox = interrupt.explain(host.attach(&record))?;
    let mut sink = |stream, data: &[u8]| output.write(stream, data);
    let exit = interrupt.explain(attend(&*sandbox, &job, &interrupt, &mut sink))?;
    shortage::tell(&exit, record.memory_mib);
    Ok(exit.outcome.exit_code())
}

/// What the VM's image says about commands, if it is still there.
fn image_of(global: &Global, record: &VmRecord) -> Defaults {
    let name = record.labels.get(ps::IMAGE);
    let image = name.and_then(|name| Store::open(&global.state_dir).ok()?.get(name).ok());
    image.map(|image| image.description.defaults).unwrap_or_default()
}
