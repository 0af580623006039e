//! `runner cp`: copies files between a running VM and this host.

use std::io;
use std::path::Path;

use sandbox::{Owner, Sandbox, User};

use crate::copy::{
    CopyEvent, Destination, Ownership, copy_in, copy_out, copy_stream_in, copy_stream_out, owner,
};
use crate::error::{Error, Result, Usage};
use crate::interrupt::{FirstSignal, Interrupt};
use crate::options::Global;
use crate::output::Output;
use crate::progress::Copying;
use crate::signal;
use crate::value::{self, CopyOperand};
use crate::vmm::{self, Host};

const EXAMPLES: &str = "\
Examples:
  runner cp ./site web:/srv                  a file or a folder into the folder /srv
  runner cp ./site/. web:/srv                the contents of a folder into /srv
  runner cp web:/var/log/app.log .           out of the VM
  runner cp web:/etc/passwd - | wc -l        a file to standard output
  runner cp --archive web:/etc/app ./backup  keep the owners and modes of the VM

If DST is an existing folder, SRC is copied into it; otherwise DST is the new name, and must be a
folder if it ends with /. Modes, times, symbolic and hard links, holes and empty folders are kept.
Sockets, FIFOs and devices in a folder are skipped with a warning. A symbolic link as SRC is followed.

New files belong to the owner of their folder; replaced files keep owner and mode. On this host, only
root can create files of other users. Devices, FIFOs and sockets are never replaced. Files from a VM
lose setuid, setgid and sticky bits, and are never written outside of DST.";

/// Copy files and folders between a running VM and this host
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// VM:PATH, a local path, or - for standard input
    #[arg(value_parser = value::os(value::copy_operand))]
    src: CopyOperand,

    /// VM:PATH, a local path, or - for standard output
    #[arg(value_parser = value::os(value::copy_operand))]
    dst: CopyOperand,

    /// Owner of the copies: a user (and group) of the destination, by name or number
    #[arg(long, value_name = "USER[:GROUP]", value_parser = value::user, conflicts_with = "archive")]
    owner: Option<User>,

    /// Keep numeric owners, and apply the source's owners and modes to existing files too
    #[arg(short, long)]
    archive: bool,
}

/// The validated arguments.
enum Copy<'a> {
    In { source: Option<&'a Path>, vm: &'a str, target: &'a Path },
    Out { vm: &'a str, source: &'a Path, destination: Option<&'a Path> },
}

impl Arguments {
    fn validate(&self) -> Result<Copy<'_>> {
        let local = |place: &CopyOperand| -> Result<()> {
            match place {
                CopyOperand::Local(_) | CopyOperand::Stream => Ok(()),
                CopyOperand::Guest { .. } => Err(Usage::CopySides.into()),
            }
        };
        match (&self.src, &self.dst) {
            (source, CopyOperand::Guest { vm, path }) => {
                local(source)?;
                Ok(Copy::In { source: source.path(), vm, target: path })
            }
            (CopyOperand::Guest { vm, path }, destination) => {
                Ok(Copy::Out { vm, source: path, destination: destination.path() })
            }
            _ => Err(Usage::CopySides.into()),
        }
    }

    /// The owners of the copies; `find` looks a user up at the destination.
    fn ownership(&self, find: impl FnOnce(&User) -> Result<Option<Owner>>) -> Result<Ownership> {
        let Some(user) = &self.owner else {
            return Ok(if self.archive { Ownership::Source } else { Ownership::Inherited });
        };
        let name = || match user {
            User::Name(name) => name.clone(),
            User::Ids { uid, gid } => format!("{uid}:{gid}"),
            User::InGroup { user, group } => format!("{user}:{group}"),
        };
        let owner = find(user)?.ok_or_else(|| Error::NoSuchUser { name: name() })?;
        Ok(Ownership::Given(owner))
    }
}

impl Copy<'_> {
    fn vm(&self) -> &str {
        match self {
            Self::In { vm, .. } | Self::Out { vm, .. } => vm,
        }
    }

    fn is_stream(&self) -> bool {
        matches!(self, Self::In { source: None, .. } | Self::Out { destination: None, .. })
    }
}

/// Runs the sub-command. A signal ends a copy as an error does: no partial file stays.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let copy = arguments.validate()?;
    let record = vmm::find(&global.state_dir, copy.vm())?;
    if copy.is_stream() {
        // A stream leaves no files on this host, so signals keep their default action, which also ends
        // a blocked read or write.
        let host = Host::open(&global.state_dir)?;
        return transfer(&copy, &*host.attach(&record)?, arguments, global).map(|()| 0);
    }
    let signals = signal::block()?;
    let host = Host::open(&global.state_dir)?;
    let interrupt = Interrupt::start(signals, FirstSignal::Forward, host.disconnect())?;
    let sandbox = interrupt.or_interrupted(host.attach(&record))?;
    interrupt.or_interrupted(transfer(&copy, &*sandbox, arguments, global)).map(|()| 0)
}

fn transfer(
    copy: &Copy<'_>,
    sandbox: &dyn Sandbox,
    arguments: &Arguments,
    global: &Global,
) -> Result<()> {
    // A progress bar would be mixed into output to this terminal.
    let to_terminal = matches!(copy, Copy::Out { destination: None, .. })
        && std::io::IsTerminal::is_terminal(&io::stdout());
    let mut bar = Copying::new(global.quiet || to_terminal);
    let mut meter = |event: CopyEvent<'_>| bar.note(event);
    match *copy {
        Copy::In { source, target, .. } => {
            let ownership = arguments.ownership(|user| owner::in_vm(user, sandbox))?;
            let target = Destination { path: target, make_parents: false, ownership };
            match source {
                Some(source) => copy_in(sandbox, source, &target, &mut meter),
                None => copy_stream_in(sandbox, io::stdin().lock(), &target, &mut meter),
            }
        }
        Copy::Out { source, destination: Some(destination), .. } => {
            let ownership = arguments.ownership(owner::on_host)?;
            copy_out(sandbox, source, destination, ownership, &mut meter)
        }
        Copy::Out { source, destination: None, .. } => {
            copy_stream_out(sandbox, source, Output::open()?.stdout(), &mut meter)
        }
    }
}
