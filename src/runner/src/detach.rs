//! A VM that stays: `run -d` starts a runner in the background that owns it.
//!
//! ```text
//!  run -d                             run -d, in the background
//!  1 starts it, with a pipe           2 a session of its own: no terminal, no Ctrl-C
//!    as its standard output           3 starts the VM; what goes wrong it says on our stderr
//!  5 prints the name, exit 0  ◀─────  4 writes the VM's name to the pipe
//!    (no name: its exit code)         6 closes the pipe; stderr goes to <folder>/runner.log
//!                                     7 runs the command, waits for the VM's end or a signal
//! ```
//!
//! If step 1's process is gone by step 4, the pipe is broken and the VM ends.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::journal;

/// The flag of the runner in the background, before all others.
const FLAG: &str = "--detached";

/// In front: steps 1 and 5.
pub(crate) fn start() -> Result<u8> {
    let failed = |source| Error::Detach { source };
    let (mut name_rx, name_tx) = io::pipe().map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg(FLAG)
        .args(env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(name_tx)
        .spawn()
        .map_err(failed)?;
    let mut name = String::new();
    name_rx.read_to_string(&mut name).map_err(failed)?;
    if name.ends_with('\n') {
        print!("{name}");
        return Ok(0);
    }
    let status = child.wait().map_err(failed)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Err(Error::Detached { code })
}

/// In the background: step 2. What our caller had open is not ours to hold, either: somebody may
/// wait for the end of a pipe. To be called before anything of ours is open.
pub(crate) fn leave_terminal() -> Result<()> {
    nix::unistd::setsid().map_err(|errno| Error::Detach { source: errno.into() })?;
    let open = fs::read_dir("/proc/self/fd").map_err(|source| Error::Detach { source })?;
    let inherited: Vec<RawFd> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in inherited {
        // The one that listed them is closed by now.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// In the background: steps 4 and 6. From here on, nobody watches.
pub(crate) fn announce(name: &str, folder: &Path) -> Result<()> {
    let log = journal::append_to(&folder.join(journal::RUNNER))?;
    tell(name, &log).map_err(|source| Error::Detach { source })
}

fn tell(name: &str, log: &File) -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{name}")?;
    stdout.flush()?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(log)?;
    // The folder that we were started in is not ours to hold.
    env::set_current_dir("/")
}
