//! `runner logs`: what the command of a VM in the background wrote, or its console.
//!
//! Following sleeps in a read of inotify: on the file for what is added, on the folder for its end.
//! That has come when the folder goes, or when the owner's lock in it is closed, which the kernel
//! does for an owner that was killed.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sandbox::SandboxId;

use crate::error::{Error, Result, file};
use crate::journal;
use crate::options::Global;
use crate::output::Output;
use crate::terminal::harmless;
use crate::vmm;

/// Show what the command of a VM that was started with -d has written
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Go on until the VM ends
    #[arg(short, long)]
    follow: bool,

    /// Show the guest's console instead: its kernel and init
    #[arg(long)]
    console: bool,

    /// Name, id, or the beginning of an id
    vm: String,
}

/// Does it.
pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<u8> {
    let record = vmm::find(&global.state_dir, &arguments.vm)?;
    let name = if arguments.console { journal::CONSOLE } else { journal::OUTPUT };
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

/// Shows a log, for as long as it is wanted.
fn print(
    global: &Global,
    arguments: &Arguments,
    id: SandboxId,
    (log, path): (&mut File, &Path),
    out: &mut impl Write,
) -> Result<u8> {
    if arguments.follow {
        let goes_on = || Ok(path.exists() && vmm::is_running(&global.state_dir, id)?);
        follow(log, &Watch::start(path)?, goes_on, out)?;
    } else {
        show(log, out)?;
    }
    Ok(0)
}

/// Shows what was not shown yet.
fn show(log: &mut File, out: &mut impl Write) -> Result<()> {
    io::copy(log, out).map(drop).map_err(|source| Error::Output { source })
}

/// Passes on text with its control characters escaped: nobody ran a guest's kernel and init to have
/// them at the terminal.
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

fn follow(
    log: &mut File,
    watch: &Watch<'_>,
    mut goes_on: impl FnMut() -> Result<bool>,
    out: &mut impl Write,
) -> Result<()> {
    loop {
        // Asked before the rest is shown: what was written before the end is not missed.
        let last = !goes_on()?;
        show(log, out)?;
        if last {
            return Ok(());
        }
        watch.sleep()?;
    }
}

/// The file and the folder that it is in.
struct Watch<'a> {
    inotify: Inotify,
    path: &'a Path,
}

impl<'a> Watch<'a> {
    fn start(path: &'a Path) -> Result<Self> {
        let failed = |errno: Errno| file("watch", path)(errno);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(failed)?;
        let in_folder = AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_CLOSE_WRITE;
        let folder = path.parent().unwrap_or(path);
        for (path, events) in [(path, AddWatchFlags::IN_MODIFY), (folder, in_folder)] {
            match inotify.add_watch(path, events) {
                // Gone by now, which is seen before there is a sleep.
                Ok(_) | Err(Errno::ENOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(Self { inotify, path })
    }

    fn sleep(&self) -> Result<()> {
        match self.inotify.read_events() {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(file("watch", self.path)(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs;

    use super::*;

    #[test]
    fn a_console_at_a_terminal_has_its_control_characters_escaped() {
        let mut shown = Vec::new();
        Escaped(&mut shown).write_all(b"[1.0] \x1b[2Jhello\r\n").unwrap();
        assert_eq!(shown, b"[1.0] \\x1b[2Jhello\n");
    }

    #[test]
    fn following_shows_what_is_there_what_is_added_and_what_came_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(journal::OUTPUT);
        fs::write(&path, "one ").unwrap();
        let mut log = File::open(&path).unwrap();
        let mut writer = File::options().append(true).open(&path).unwrap();
        let (mut shown, asked) = (Vec::new(), Cell::new(0));
        let goes_on = || {
            asked.set(asked.get() + 1);
            match asked.get() {
                1 => writer.write_all(b"two ").map(|()| true),
                _ => {
                    writer.write_all(b"three").and_then(|()| fs::remove_file(&path)).map(|()| false)
                }
            }
            .map_err(file("write", &path))
        };

        follow(&mut log, &Watch::start(&path).unwrap(), goes_on, &mut shown).unwrap();

        assert_eq!(shown, b"one two three");
        assert_eq!(asked.get(), 2);
    }
}
