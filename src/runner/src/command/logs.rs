//! `runner logs`: the output of a background command, or the guest's console.
//!
//! A VM has ended when its folder is gone or the lock of its owner is free. The kernel releases the
//! lock of an owner that was killed.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;

use sandbox::SandboxId;

use crate::background::{self, CommandObserver};
use crate::error::{Error, Result, file};
use crate::follow::{FileWatch, follow, show};
use crate::options::Global;
use crate::output::Output;
use crate::output_log;
use crate::terminal::harmless;
use crate::value;
use crate::vmm::{self, VmRecord};

/// Print the output of a background command
///
/// The command is that of `run -d`, or with --command one of `exec -d`. Output of its child processes
/// is included.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Follow the output until the VM ends; with --command, until the command and its children end
    #[arg(short, long)]
    follow: bool,

    /// Name of a command of `exec -d`
    #[arg(long, value_name = "NAME", value_parser = value::name, conflicts_with = "console")]
    command: Option<String>,

    /// Print the guest's console (kernel and init) instead
    #[arg(long)]
    console: bool,

    /// Name or id of the VM; a unique prefix of the id is enough
    vm: String,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let record = vmm::find(&global.state_dir, &arguments.vm)?;
    match &arguments.command {
        Some(name) => of_command(arguments, &record, name),
        None => of_vm(global, arguments, &record),
    }
}

fn of_vm(global: &Global, arguments: &Arguments, record: &VmRecord) -> Result<u8> {
    let name = if arguments.console { output_log::CONSOLE } else { output_log::OUTPUT };
    let path = record.folder.join(name);
    let mut log = match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::NoLog { vm: arguments.vm.clone() });
        }
        opened => opened.map_err(file("open", &path))?,
    };
    let mut output = Output::open()?;
    let stdout = output.stdout();
    if arguments.console && io::stdout().is_terminal() {
        return print(global, arguments, record.id, (&mut log, &path), &mut Escaped(stdout));
    }
    print(global, arguments, record.id, (&mut log, &path), stdout)
}

/// Prints a log, and follows it if requested.
fn print(
    global: &Global,
    arguments: &Arguments,
    id: SandboxId,
    (log, path): (&mut File, &Path),
    out: &mut impl Write,
) -> Result<u8> {
    if arguments.follow {
        let goes_on = || Ok(path.exists() && vmm::is_running(&global.state_dir, id)?);
        let watch = FileWatch::start(path)?;
        follow(log, || watch.sleep(), goes_on, out)?;
    } else {
        show(log, out)?;
    }
    Ok(0)
}

fn of_command(arguments: &Arguments, record: &VmRecord, name: &str) -> Result<u8> {
    let folder = background::folder(record, Some(name));
    let observer = CommandObserver::open(&folder)?
        .ok_or_else(|| Error::NoSuchCommand { vm: arguments.vm.clone(), name: name.to_owned() })?;
    let path = folder.join(output_log::OUTPUT);
    let mut log = File::open(&path).map_err(file("open", &path))?;
    let mut output = Output::open()?;
    if arguments.follow {
        let watch = FileWatch::start(&path)?;
        let sleep = || watch.sleep_or(observer.alive());
        follow(&mut log, sleep, || Ok(observer.is_attended()), output.stdout())?;
    } else {
        show(&mut log, output.stdout())?;
    }
    Ok(0)
}

/// Escapes control characters: text of a guest's console must not control the terminal.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_all(harmless(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_at_a_terminal_has_its_control_characters_escaped() {
        let mut shown = Vec::new();
        Escaped(&mut shown).write_all(b"[1.0] \x1b[2Jhello\r\n").unwrap();
        assert_eq!(shown, b"[1.0] \\x1b[2Jhello\n");
    }
}
