//! Starts a command: account, environment, streams, cgroup, then the process.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Gid, Uid, fchown, pipe2};
use process::{Cgroup, Credentials, Stage};
use serde_bytes::ByteBuf;
use vsock_proto::{Exec, Failure};

use crate::account::{self, Account};
use crate::authority;
use crate::command::{Command, Outputs};
use crate::failure::{refused, text};
use crate::input::Input;
use crate::link::set_nonblocking;
use crate::output::Output;
use crate::service::Service;
use crate::terminal;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The reason that a command was not started.
#[derive(Debug)]
pub(crate) struct Unstarted {
    /// The program does not exist (ENOENT).
    pub(crate) is_missing: bool,
    pub(crate) message: String,
}

impl From<Failure> for Unstarted {
    fn from(Failure { message, .. }: Failure) -> Self {
        Self { is_missing: false, message }
    }
}

pub(crate) fn launch(
    exec: &Exec,
    service: &Service,
    cgroup: Option<Cgroup>,
) -> Result<Command, Unstarted> {
    let started = Instant::now();
    let (program, arguments) =
        exec.argv.split_first().ok_or_else(|| refused(Errno::EINVAL, "no program is named"))?;
    let account = account::find(&service.config.root, exec.user.as_ref())?;
    let cwd = cwd(exec, &account);
    let mut command = process::Command::new(OsStr::from_bytes(program))
        .args(arguments.iter().map(|bytes| OsStr::from_bytes(bytes)))
        .cwd(&cwd);
    for (name, value) in environment(exec, &account)? {
        command = command.env(name, value);
    }
    let (mut command, input, outputs) = if exec.pty.is_some() {
        with_terminal(command, exec, &account).map_err(no_streams)?
    } else {
        with_pipes(command, exec, &account).map_err(no_streams)?
    };
    if let (Some(cgroup), Some(user)) = (&cgroup, &account.credentials)
        && let Err(error) = cgroup.delegate(user.uid, user.gid)
    {
        log::warn!("the command cannot make cgroups; error={error}");
    }
    if let Some(credentials) = account.credentials {
        command = command.credentials(credentials);
    }
    if let Some(cgroup) = &cgroup {
        command = command.cgroup(cgroup);
    }
    if service.is_spared {
        // Children inherit the score, and commands must not share the service's exemption.
        command = command.oom_score(0);
    }
    let child = command.spawn().map_err(|error| why(&error, &cwd))?;
    let command = Command::new(child, cgroup, input, outputs).started(started, exec.timeout);
    Ok(command.following(exec.follow_descendants))
}

fn no_streams(errno: Errno) -> Failure {
    refused(errno, format!("cannot make the command's streams: {}", text(errno)))
}

fn cwd(exec: &Exec, account: &Account) -> PathBuf {
    match &exec.cwd {
        Some(cwd) => PathBuf::from(OsStr::from_bytes(cwd)),
        None if account.home.is_dir() => account.home.clone(),
        None => PathBuf::from("/"),
    }
}

/// The requested variables, then each default whose name is missing in them.
fn environment<'a>(
    exec: &'a Exec,
    account: &'a Account,
) -> Result<Vec<(&'a OsStr, &'a OsStr)>, Failure> {
    let given = |(name, value): &'a (ByteBuf, ByteBuf)| {
        if name.is_empty() || name.contains(&b'=') {
            let name = String::from_utf8_lossy(name);
            let message = format!("`{name}` cannot be the name of a variable");
            return Err(refused(Errno::EINVAL, message));
        }
        Ok((OsStr::from_bytes(name), OsStr::from_bytes(value)))
    };
    let mut variables = exec.env.iter().map(given).collect::<Result<Vec<_>, _>>()?;
    let defaults = [
        ("PATH", OsStr::new(PATH)),
        ("HOME", account.home.as_os_str()),
        ("USER", account.name.as_os_str()),
        ("LOGNAME", account.name.as_os_str()),
        ("TERM", OsStr::new("xterm-256color")),
    ];
    let count = if exec.pty.is_some() { 5 } else { 4 };
    for (name, value) in defaults.into_iter().take(count) {
        if !variables.iter().any(|(present, _)| *present == name) {
            variables.push((OsStr::new(name), value));
        }
    }
    for (name, value) in authority::variables() {
        if !variables.iter().any(|(present, _)| present == name) {
            variables.push((OsStr::new(name), OsStr::new(value)));
        }
    }
    Ok(variables)
}

type Prepared<'a> = (process::Command<'a>, Input, Outputs);

fn with_pipes<'a>(
    mut command: process::Command<'a>,
    exec: &Exec,
    account: &Account,
) -> nix::Result<Prepared<'a>> {
    let mut input = Input::default();
    if exec.stdin {
        let (theirs, ours) = pipe(account)?;
        set_nonblocking(&ours)?;
        command = command.stdin(theirs);
        input = Input::pipe(ours);
    }
    let (stdout, theirs) = output(exec.stdout_cap, account)?;
    command = command.stdout(theirs);
    let (stderr, theirs) = output(exec.stderr_cap, account)?;
    command = command.stderr(theirs).new_session();
    Ok((command, input, Outputs::Pipes([stdout, stderr])))
}

/// Creates a pipe; returns its reading end as an output, and its writing end.
fn output(cap: Option<u64>, account: &Account) -> nix::Result<(Output, OwnedFd)> {
    let (ours, theirs) = pipe(account)?;
    set_nonblocking(&ours)?;
    Ok((Output::new(Rc::new(ours), cap), theirs))
}

/// Creates a pipe owned by the command's user: opening `/dev/stdout` by name requires the owner.
fn pipe(account: &Account) -> nix::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    if let Some(Credentials { uid, gid, .. }) = &account.credentials {
        fchown(&writer, Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)))?;
    }
    Ok((reader, writer))
}

fn with_terminal<'a>(
    command: process::Command<'a>,
    exec: &Exec,
    account: &Account,
) -> nix::Result<Prepared<'a>> {
    let size = exec.pty.unwrap_or(vsock_proto::PtySize { rows: 24, columns: 80 });
    let owner = account.credentials.as_ref().map(|who| who.uid);
    let terminal = terminal::create(size, owner)?;
    let mut input = Input::terminal(Rc::clone(&terminal.master));
    if !exec.stdin {
        input.end();
    }
    let output = Output::new(Rc::clone(&terminal.master), exec.stdout_cap);
    let command = command
        .stdin(terminal.peer.try_clone().map_err(|error| account::errno(&error))?)
        .stdout(terminal.peer.try_clone().map_err(|error| account::errno(&error))?)
        .stderr(terminal.peer)
        .controlling_terminal();
    Ok((command, input, Outputs::Terminal(output, terminal.master)))
}

/// The error as a sentence, in a shell's words if the program does not exist.
fn why(error: &process::Error, cwd: &Path) -> Unstarted {
    let errno = Errno::from_raw(error.errno().unwrap_or(0));
    let mut is_missing = false;
    let message = match error {
        process::Error::Start { program, stage: Stage::Exec, .. } => {
            is_missing = errno == Errno::ENOENT;
            let is_there = program.contains('/') && cwd.join(program).exists();
            if is_missing && is_there {
                format!("cannot start `{program}`: the interpreter that it needs is not there")
            } else {
                format!("cannot start `{program}`: {}", text(errno))
            }
        }
        process::Error::Start { program, stage: Stage::Cwd, .. } => {
            format!("cannot start `{program}` in {}: {}", cwd.display(), text(errno))
        }
        process::Error::ZeroByte { .. } => error.to_string(),
        other => format!("{other}: {}", text(errno)),
    };
    Unstarted { is_missing, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account { name: "user".into(), home: "/home/user".into(), credentials: None }
    }

    fn value<'a>(variables: &[(&OsStr, &'a OsStr)], name: &str) -> Option<&'a OsStr> {
        let variable = variables.iter().find(|(present, _)| *present == name);
        variable.map(|(_, value)| *value)
    }

    #[test]
    fn only_missing_variables_are_added() {
        let exec =
            Exec { env: vec![(ByteBuf::from("HOME"), ByteBuf::from("/tmp"))], ..Exec::default() };
        let account = account();
        let variables = environment(&exec, &account).unwrap();
        assert_eq!(value(&variables, "HOME"), Some(OsStr::new("/tmp")));
        assert_eq!(value(&variables, "USER"), Some(OsStr::new("user")));
        assert_eq!(value(&variables, "PATH"), Some(OsStr::new(PATH)));
        assert_eq!(value(&variables, "TERM"), None);
    }

    #[test]
    fn a_name_with_an_equals_sign_is_refused() {
        let exec = Exec { env: vec![(ByteBuf::from("A=B"), ByteBuf::new())], ..Exec::default() };
        let account = account();
        let failure = environment(&exec, &account).unwrap_err();
        assert_eq!(failure.message, "`A=B` cannot be the name of a variable");
    }
}
