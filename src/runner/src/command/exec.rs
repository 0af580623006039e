//! `runner exec`: runs a command in a running VM.

use std::ffi::OsString;

use rootfs::{Defaults, Store};
use sandbox::{Stream, label};

use crate::attend::{AttendedCommand, attend, attend_to, start};
use crate::background;
use crate::detach;
use crate::error::Result;
use crate::interrupt::{FirstSignal, Interrupt};
use crate::options::Global;
use crate::output::Output;
use crate::request::CommandArguments;
use crate::vmm::{self, Host, VmRecord};
use crate::{shortage, signal, value};

const EXAMPLES: &str = "\
Examples:
  runner exec web -- ps aux
  runner exec -it web -- bash
  runner exec -d --name tests web -- make test
  runner logs -f --command tests web; runner wait --command tests web
  tar c . | runner exec -i --user user --workdir /home/user/workspace web -- tar x

The exit code is the command's. 128+n: signal n ended it. 124: timeout. 127: program not found.
126: it could not be started. 125 if the runner itself failed.

Child processes that outlive the command keep running; their output is dropped, or logged with -d.
Background commands end with their VM.";

/// Run a command in a running VM
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    command_arguments: CommandArguments,

    /// Run the command in the background and print its name
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,

    /// Name of the background command, for `logs --command`, `wait --command` and `ps`
    #[arg(long, requires = "detach", value_parser = value::name)]
    name: Option<String>,

    /// Name or id of the VM; a unique prefix of the id is enough
    vm: String,

    /// Command and arguments, run without a shell
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

/// Runs the sub-command; returns the exit code of the command in the VM.
pub(crate) fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    if arguments.detach {
        return if global.detached { keep(global, arguments) } else { detach::start() };
    }
    let signals = signal::block()?;
    let (record, command) = understand(global, &arguments)?;
    let host = Host::open(&global.state_dir)?;
    let interrupt = Interrupt::start(signals, FirstSignal::Forward, host.disconnect())?;
    let mut output = Output::open()?.cancel_on(interrupt.cancelled());
    let sandbox = interrupt.or_interrupted(host.attach(&record))?;
    let mut sink = |stream, data: &[u8]| output.write(stream, data);
    let exit = interrupt.or_interrupted(attend(&*sandbox, &command, &interrupt, &mut sink))?;
    shortage::print(&exit, record.memory_mib);
    Ok(exit.outcome.exit_code())
}

/// In the background: attends to the command, and to what it leaves, until all of that has ended.
fn keep(global: &Global, arguments: Arguments) -> Result<u8> {
    detach::leave_terminal()?;
    let signals = signal::block()?;
    let (record, mut command) = understand(global, &arguments)?;
    command.request.follow_descendants = true;
    let host = Host::open(&global.state_dir)?;
    let interrupt = Interrupt::start(signals, FirstSignal::Cancel, host.disconnect())?;
    let sandbox = interrupt.or_interrupted(host.attach(&record))?;
    let mut reserved = background::reserve(&record, arguments.name.as_deref(), &command.program())?;
    let execution = match start(&*sandbox, &command) {
        Ok(execution) if execution.has_started() => execution,
        not_started => {
            reserved.cancel();
            let recorded = &mut |_: Stream, _: &[u8]| Ok(());
            let ended = attend_to(&not_started?, &command, &interrupt, recorded);
            return interrupt.or_interrupted(ended).map(|exit| exit.outcome.exit_code());
        }
    };
    detach::announce(&reserved.name, &reserved.folder)?;
    let result = attend_to(&execution, &command, &interrupt, &mut reserved.recorder);
    reserved.recorder.finish(&result);
    interrupt.or_interrupted(result).map(|_| 0)
}

fn understand(global: &Global, arguments: &Arguments) -> Result<(VmRecord, AttendedCommand)> {
    let record = vmm::find(&global.state_dir, &arguments.vm)?;
    let image = image_of(global, &record);
    let request = arguments.command_arguments.request(arguments.command.clone(), &image)?;
    Ok((record, AttendedCommand::new(request)))
}

/// What the VM's image says about commands, if it is still there.
fn image_of(global: &Global, record: &VmRecord) -> Defaults {
    let name = record.labels.get(label::IMAGE);
    let image = name.and_then(|name| Store::open(&global.state_dir).ok()?.get(name).ok());
    image.map(|image| image.description.defaults).unwrap_or_default()
}
