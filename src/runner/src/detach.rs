//! A VM that stays: `run -d` starts a runner in the background that owns it.
//!
//! ```text
//!  run -d                             run -d, in the background
//!  1 starts it, with pipes, tells     2 a session of its own: no terminal, no Ctrl-C
//!    it our arguments by one          3 starts the VM; what goes wrong it says on our stderr
//!  5 prints the name, exit 0  ◀─────  4 writes the VM's name to the pipe
//!    (no name: its exit code)         6 closes the pipe; stderr goes to <folder>/runner.log
//!                                     7 runs the command, waits for the VM's end or a signal
//! ```
//!
//! If step 1's process is gone by step 4, the pipe is broken and the VM ends.
//!
//! Arguments may hold secrets (`--env`, a prompt), and everybody may read a process's command line.
//! In front it is short-lived and the caller's choice; in the background it says nothing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::{output, output_log, signal};

/// The flag of the runner in the background: alone on its command line, before all that it is told.
const FLAG: &str = "--detached";

/// The arguments of this process, whichever way they come.
pub(crate) fn arguments() -> Result<Vec<OsString>> {
    let typed: Vec<OsString> = env::args_os().collect();
    if typed.len() != 2 || typed[1] != FLAG {
        return Ok(typed);
    }
    let mut told = Vec::new();
    io::stdin().read_to_end(&mut told).map_err(|source| Error::Detach { source })?;
    Ok(typed.into_iter().chain(unpack(&told)).collect())
}

/// As the kernel does it: a zero byte behind each.
fn pack(arguments: impl Iterator<Item = OsString>) -> Vec<u8> {
    let ended = |argument: OsString| [argument.into_vec(), vec![0]].concat();
    arguments.flat_map(ended).collect()
}

fn unpack(bytes: &[u8]) -> impl Iterator<Item = OsString> {
    let ended = bytes.split_inclusive(|byte| *byte == 0);
    ended.filter_map(|text| text.strip_suffix(&[0])).map(|text| OsStr::from_bytes(text).to_owned())
}

/// In front: steps 1 and 5.
pub(crate) fn start() -> Result<u8> {
    signal::ignore_others()?;
    let failed = |source| Error::Detach { source };
    let (mut name_rx, name_tx) = io::pipe().map_err(failed)?;
    let (arguments_rx, mut arguments_tx) = io::pipe().map_err(failed)?;
    let mut child = Command::new("/proc/self/exe")
        .arg0("runner")
        .arg(FLAG)
        .stdin(arguments_rx)
        .stdout(name_tx)
        .spawn()
        .map_err(failed)?;
    arguments_tx.write_all(&pack(env::args_os().skip(1))).map_err(failed)?;
    drop(arguments_tx);
    let mut name = String::new();
    name_rx.read_to_string(&mut name).map_err(failed)?;
    if name.ends_with('\n') {
        return output::line(name.trim_end()).map(|()| 0);
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
    let log = output_log::append_to(&folder.join(output_log::RUNNER))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_arrive_as_they_were_also_empty_ones_and_any_bytes() {
        let sent = ["run", "-d", "", "two\nlines"].map(OsString::from).to_vec();
        let sent = [sent, vec![OsString::from_vec(b"\xff".to_vec())]].concat();
        let packed = pack(sent.iter().cloned());
        assert_eq!(unpack(&packed).collect::<Vec<_>>(), sent);
    }
}
