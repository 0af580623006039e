//! Starts a [`Command`] as a [`Child`].
//!
//! Everything that allocates happens here, before the fork; [`sys`] then only makes system
//! calls. A close-on-exec pipe reports the result to the parent:
//!
//! ```text
//!   parent  ── clone3 ──▶ child: stdio, session, …, execve
//!     read ◀── end of file (exec closed it), or stage and error number
//! ```

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::command::{Command, Network};
use crate::error::{Stage, c_string};
use crate::sys::{self, Plan};
use crate::{Child, Error, Result};

pub(crate) fn spawn(command: Command<'_>) -> Result<Child> {
    let name = command.name();
    let describe = |source| Error::Descriptors { program: name.clone(), source };
    let descriptors = descriptors(&command).map_err(describe)?;
    let (mut report, report_tx) = pipe(descriptors.len()).map_err(describe)?;
    let file = command.file.as_ref().map(|file| above(descriptors.len(), file.as_fd()));
    let file = file.transpose().map_err(describe)?;
    let plan = Plan {
        candidates: candidates(&command)?,
        file: file.as_ref().map(AsRawFd::as_raw_fd),
        arguments: arguments(&command)?,
        environment: environment(&command)?,
        cwd: command.cwd.as_ref().map(|cwd| c_string(cwd.as_os_str().as_bytes())).transpose()?,
        descriptors: descriptors.iter().map(AsRawFd::as_raw_fd).collect(),
        report: report_tx.as_raw_fd(),
        cgroup: command.cgroup.as_ref().map(AsRawFd::as_raw_fd),
        credentials: command.credentials,
        unshare_network: matches!(command.network, Network::Empty),
        network: match &command.network {
            Network::Namespace(fd) => Some(fd.as_raw_fd()),
            Network::Inherited | Network::Empty => None,
        },
        jail: command.jail.as_ref().map(|jail| jail.prepare()).transpose()?,
        session: command.session,
        terminal: command.terminal,
        no_new_privileges: command.no_new_privileges,
        parent_death_signal: command.parent_death_signal,
        limits: command.limits,
        oom_score: command.oom_score.map(|score| score.to_string()),
    };
    let (pid, pidfd) =
        sys::clone(&plan).map_err(|source| Error::Fork { program: name.clone(), source })?;
    let child = Child::new(pid, pidfd);
    drop(report_tx);
    match read_report(&mut report).map_err(describe)? {
        None => Ok(child),
        Some((stage, source)) => {
            child.wait()?;
            Err(Error::Start { program: name, stage, source })
        }
    }
}

/// The stage at which the child failed; `None` if it runs its program.
fn read_report(report: &mut File) -> io::Result<Option<(Stage, io::Error)>> {
    let mut bytes = Vec::with_capacity(8);
    report.read_to_end(&mut bytes)?;
    let Some((stage, errno)) = bytes.split_first() else {
        return Ok(None);
    };
    let errno = <[u8; 4]>::try_from(errno).map_or(libc::EIO, i32::from_ne_bytes);
    Ok(Some((Stage::from_byte(*stage), io::Error::from_raw_os_error(errno))))
}

fn pipe(count: usize) -> io::Result<(File, OwnedFd)> {
    let (rx, tx) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    Ok((File::from(rx), above(count, tx.as_fd())?))
}

/// The descriptors that the process is to have, from 0 on; none is in the place of another one's
/// target.
fn descriptors(command: &Command<'_>) -> io::Result<Vec<OwnedFd>> {
    let count = command.stdio.len() + command.descriptors.len();
    let stream = |given: &Option<OwnedFd>| match given {
        Some(fd) => above(count, fd.as_fd()),
        None => {
            let null = File::options().read(true).write(true).open("/dev/null")?;
            above(count, null.as_fd())
        }
    };
    let streams = command.stdio.iter().map(stream);
    streams.chain(command.descriptors.iter().map(|fd| above(count, fd.as_fd()))).collect()
}

/// The same descriptor with a number of at least `count`.
fn above(count: usize, fd: impl AsFd) -> io::Result<OwnedFd> {
    let least = RawFd::try_from(count).unwrap_or(RawFd::MAX);
    let fd = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(least))?;
    Ok(sys::own(fd))
}

/// The paths to try, in order.
fn candidates(command: &Command<'_>) -> Result<Vec<CString>> {
    let program = command.program.as_bytes();
    if program.contains(&b'/') {
        return Ok(vec![c_string(program)?]);
    }
    let path = command.environment.iter().rev().find(|(name, _)| name == "PATH");
    let folders = path.map_or(&b"/usr/local/bin:/usr/bin:/bin"[..], |(_, value)| value.as_bytes());
    folders
        .split(|byte| *byte == b':')
        .map(|folder| {
            let folder = if folder.is_empty() { b"." } else { folder };
            c_string(&[folder, b"/", program].concat())
        })
        .collect()
}

fn arguments(command: &Command<'_>) -> Result<Vec<CString>> {
    std::iter::once(command.argument_zero())
        .chain(command.arguments.iter().map(OsString::as_os_str))
        .map(|argument| c_string(argument.as_bytes()))
        .collect()
}

fn environment(command: &Command<'_>) -> Result<Vec<CString>> {
    let variable = |(name, value): &(OsString, OsString)| {
        c_string(&[name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    command.environment.iter().map(variable).collect()
}
