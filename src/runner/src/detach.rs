//! Background runners: `run -d` and `exec -d` start a second runner process, which owns the VM or command.
//!
//! ```text
//!  foreground                            background
//!  1 starts the background runner,       2 starts a session: no terminal, no Ctrl-C
//!    sends it our arguments by a pipe    3 starts the VM; prints errors to our stderr
//!  5 prints the name, exits with 0  ◀──  4 writes the name to a pipe
//!    (no name: its exit code)            6 closes the pipe; stderr goes to <folder>/runner.log
//!                                        7 runs the command, waits for the VM's end or a signal
//! ```
//!
//! If the foreground process ends before step 4, the pipe is broken and the VM ends.
//!
//! Arguments may contain secrets (`--env`, a prompt), and every user can read a process's command line.
//! The background runner lives long, so its command line contains no arguments.

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

/// The flag of the background runner, which is the only one on its command line.
const FLAG: &str = "--detached";

/// The arguments of this process, from its command line or from standard input.
pub(crate) fn arguments() -> Result<Vec<OsString>> {
    let typed: Vec<OsString> = env::args_os().collect();
    if typed.len() != 2 || typed[1] != FLAG {
        return Ok(typed);
    }
    let mut packed = Vec::new();
    io::stdin().read_to_end(&mut packed).map_err(|source| Error::Detach { source })?;
    Ok(typed.into_iter().chain(unpack(&packed)).collect())
}

/// Encodes arguments as the kernel does: each ends with a zero byte.
fn pack(arguments: impl Iterator<Item = OsString>) -> Vec<u8> {
    let ended = |argument: OsString| [argument.into_vec(), vec![0]].concat();
    arguments.flat_map(ended).collect()
}

fn unpack(bytes: &[u8]) -> impl Iterator<Item = OsString> {
    let ended = bytes.split_inclusive(|byte| *byte == 0);
    ended.filter_map(|text| text.strip_suffix(&[0])).map(|text| OsStr::from_bytes(text).to_owned())
}

/// In the foreground: steps 1 and 5.
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

/// In the background: step 2. Also closes inherited descriptors, since another process may wait for the end
/// of a pipe. Call it before this process opens any descriptor.
pub(crate) fn leave_terminal() -> Result<()> {
    nix::unistd::setsid().map_err(|errno| Error::Detach { source: errno.into() })?;
    let open = fs::read_dir("/proc/self/fd").map_err(|source| Error::Detach { source })?;
    let inherited: Vec<RawFd> = open
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in inherited {
        // The descriptor of the listing itself is closed already, so an error is expected.
        let _ = nix::unistd::close(fd);
    }
    Ok(())
}

/// In the background: steps 4 and 6. From here on, the foreground process may be gone.
pub(crate) fn announce(name: &str, folder: &Path) -> Result<()> {
    let log = output_log::append_to(&folder.join(output_log::RUNNER))?;
    hand_over(name, &log).map_err(|source| Error::Detach { source })
}

fn hand_over(name: &str, log: &File) -> io::Result<()> {
    let null = File::options().write(true).open("/dev/null")?;
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{name}")?;
    stdout.flush()?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(log)?;
    // A working directory would keep its file system from being unmounted.
    env::set_current_dir("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_arguments_and_arbitrary_bytes_are_preserved() {
        let sent = ["run", "-d", "", "two\nlines"].map(OsString::from).to_vec();
        let sent = [sent, vec![OsString::from_vec(b"\xff".to_vec())]].concat();
        let packed = pack(sent.iter().cloned());
        assert_eq!(unpack(&packed).collect::<Vec<_>>(), sent);
    }
}
