//! Translates a sandbox's calls to requests on the guest link.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandbox::{
    Cause, Event, ExecRequest, Execution, Exit, Outcome, PtySize, Stream, TreeItem, TreeReader,
    TreeWriter, WriteRequest,
};
use serde_bytes::ByteBuf;
use vsock_host::Guest;
use vsock_proto as proto;

use crate::Result;
use crate::exit_reason::ErrorContext;

pub(crate) fn exec(
    guest: Result<Guest>,
    errors: &ErrorContext,
    request: &ExecRequest,
    deadline: Instant,
) -> sandbox::Result<Box<dyn Execution>> {
    let program = request.argv.first().map_or("", |name| name.to_str().unwrap_or("?")).to_owned();
    let started = guest.map_err(Cause::from).and_then(|guest| {
        guest.exec(exec_message(request), deadline).map_err(|error| errors.cause(error))
    });
    match started {
        Ok(execution) => Ok(Box::new(Running { program, execution, errors: errors.clone() })),
        Err(source) => Err(sandbox::Error::Exec { program, source }),
    }
}

pub(crate) fn write(
    guest: Result<Guest>,
    errors: &ErrorContext,
    request: &WriteRequest,
    deadline: Instant,
) -> sandbox::Result<Box<dyn TreeWriter>> {
    let path = request.target.display().to_string();
    let message = proto::Write {
        target: bytes(&request.target),
        name: request.name.as_ref().map(bytes).unwrap_or_default(),
        make_parents: request.make_parents,
        owner: request.owner.map(owner_message),
        keeps_existing: request.keeps_existing,
    };
    let guest = match guest {
        Ok(guest) => guest,
        Err(error) => {
            return Err(sandbox::Error::Copy { path, errno: None, source: error.into() });
        }
    };
    match guest.write(message, deadline) {
        Ok(tree) => Ok(Box::new(Writing { path, tree, errors: errors.clone() })),
        Err(error) => Err(copy_error(&path, errors, error)),
    }
}

pub(crate) fn read(
    guest: Result<Guest>,
    errors: &ErrorContext,
    path: &Path,
    deadline: Instant,
) -> sandbox::Result<Box<dyn TreeReader>> {
    let message = proto::Read { path: bytes(path) };
    let path = path.display().to_string();
    let guest = match guest {
        Ok(guest) => guest,
        Err(error) => {
            return Err(sandbox::Error::Copy { path, errno: None, source: error.into() });
        }
    };
    match guest.read(message, deadline) {
        Ok(tree) => Ok(Box::new(Reading { path, tree, errors: errors.clone() })),
        Err(error) => Err(copy_error(&path, errors, error)),
    }
}

pub(crate) fn connect(
    guest: Result<Guest>,
    errors: &ErrorContext,
    port: u16,
    deadline: Instant,
) -> sandbox::Result<UnixStream> {
    let failed = |source| sandbox::Error::Connect { port, source };
    let guest = guest.map_err(|error| failed(error.into()))?;
    guest.connect(port, deadline).map_err(|error| match errno(&error) {
        Some(CONNECTION_REFUSED) => sandbox::Error::NothingListens { port },
        _ => failed(errors.cause(error)),
    })
}

const CONNECTION_REFUSED: i32 = nix::errno::Errno::ECONNREFUSED as i32;

/// The number of the error that the guest reports.
fn errno(error: &vsock_host::Error) -> Option<i32> {
    match error {
        vsock_host::Error::Refused { source, .. } if source.errno != 0 => Some(source.errno),
        _ => None,
    }
}

fn copy_error(path: &str, errors: &ErrorContext, error: vsock_host::Error) -> sandbox::Error {
    let (path, errno) = (path.to_owned(), errno(&error));
    sandbox::Error::Copy { path, errno, source: errors.cause(error) }
}

struct Running {
    program: String,
    execution: vsock_host::Execution,
    errors: ErrorContext,
}

impl Running {
    fn failed(&self, error: vsock_host::Error) -> sandbox::Error {
        if let vsock_host::Error::TimedOut { after, phase } = &error {
            let phase = format!("waiting for the guest to {phase}");
            return sandbox::Error::TimedOut { phase, after: *after };
        }
        let source = self.errors.cause(error);
        sandbox::Error::Exec { program: self.program.clone(), source }
    }
}

impl Execution for Running {
    fn pid(&self) -> Option<u32> {
        self.execution.pid()
    }

    fn next(&self, deadline: Option<Instant>) -> sandbox::Result<Event> {
        match self.execution.next(deadline).map_err(|error| self.failed(error))? {
            vsock_host::Event::Output { stream, data } => Ok(Event::Output(output(stream), data)),
            vsock_host::Event::Ended(exit) => Ok(Event::Ended(exit_report(exit))),
            vsock_host::Event::Exit(exit) => Ok(Event::Exit(exit_report(exit))),
        }
    }

    fn write_stdin(&self, data: &[u8], deadline: Option<Instant>) -> sandbox::Result<()> {
        self.execution.write_stdin(data, deadline).map_err(|error| self.failed(error))
    }

    fn write_some(&self, data: &[u8], deadline: Instant) -> sandbox::Result<usize> {
        self.execution.write_some(data, deadline).map_err(|error| self.failed(error))
    }

    fn notify(&self, event: &Arc<base::event::Event>) {
        self.execution.notify(event);
    }

    fn close_stdin(&self) -> sandbox::Result<()> {
        self.execution.close_stdin(soon()).map_err(|error| self.failed(error))
    }

    fn resize(&self, size: PtySize) -> sandbox::Result<()> {
        self.execution.resize(pty_size(size), soon()).map_err(|error| self.failed(error))
    }

    fn signal(&self, signal: u8, deadline: Instant) -> sandbox::Result<()> {
        self.execution.signal(signal, deadline).map_err(|error| self.failed(error))
    }

    fn cancel(&self, deadline: Instant) -> sandbox::Result<()> {
        self.execution.cancel(deadline).map_err(|error| self.failed(error))
    }
}

struct Writing {
    path: String,
    tree: vsock_host::WriteTree,
    errors: ErrorContext,
}

impl Writing {
    fn failed(&self, error: vsock_host::Error) -> sandbox::Error {
        copy_error(&self.path, &self.errors, error)
    }
}

impl TreeWriter for Writing {
    fn entry(&mut self, entry: &sandbox::Entry, deadline: Instant) -> sandbox::Result<()> {
        let message = proto::Entry {
            path: bytes(&entry.path),
            kind: kind_message(&entry.kind),
            mode: entry.mode,
            owner: entry.owner.map(owner_message),
            modified: entry.modified,
        };
        self.tree.entry(message, deadline).map_err(|error| self.failed(error))
    }

    fn data(&mut self, data: &[u8], deadline: Instant) -> sandbox::Result<()> {
        self.tree.data(data, deadline).map_err(|error| self.failed(error))
    }

    fn finish(self: Box<Self>, deadline: Instant) -> sandbox::Result<()> {
        let Self { path, tree, errors } = *self;
        tree.finish(deadline).map_err(|error| copy_error(&path, &errors, error))
    }
}

struct Reading {
    path: String,
    tree: vsock_host::ReadTree,
    errors: ErrorContext,
}

impl TreeReader for Reading {
    fn next(&mut self, deadline: Instant) -> sandbox::Result<Option<TreeItem>> {
        let item = self
            .tree
            .next(deadline)
            .map_err(|error| copy_error(&self.path, &self.errors, error))?;
        Ok(item.map(|item| match item {
            vsock_host::TreeItem::Entry(entry) => TreeItem::Entry(entry_of(entry)),
            vsock_host::TreeItem::Data(data) => TreeItem::Data(data),
        }))
    }
}

/// The deadline of a small message to a guest that does not read.
fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn entry_of(entry: proto::Entry) -> sandbox::Entry {
    sandbox::Entry {
        path: path_of(entry.path),
        kind: kind_of(entry.kind),
        mode: entry.mode,
        owner: entry.owner.map(|owner| sandbox::Owner { uid: owner.uid, gid: owner.gid }),
        modified: entry.modified,
    }
}

fn kind_of(kind: proto::EntryKind) -> sandbox::EntryKind {
    use sandbox::{EntryKind, Special};
    match kind {
        proto::EntryKind::File { size } => EntryKind::File { size },
        proto::EntryKind::Directory => EntryKind::Directory,
        proto::EntryKind::Symlink { target } => EntryKind::Symlink { target: path_of(target) },
        proto::EntryKind::HardLink { target } => EntryKind::HardLink { target: path_of(target) },
        proto::EntryKind::Hole { length } => EntryKind::Hole { length },
        proto::EntryKind::Special(special) => EntryKind::Special(match special {
            proto::Special::Socket => Special::Socket,
            proto::Special::Fifo => Special::Fifo,
            proto::Special::Device => Special::Device,
        }),
    }
}

fn kind_message(kind: &sandbox::EntryKind) -> proto::EntryKind {
    use proto::{EntryKind, Special};
    match kind {
        sandbox::EntryKind::File { size } => EntryKind::File { size: *size },
        sandbox::EntryKind::Directory => EntryKind::Directory,
        sandbox::EntryKind::Symlink { target } => EntryKind::Symlink { target: bytes(target) },
        sandbox::EntryKind::HardLink { target } => EntryKind::HardLink { target: bytes(target) },
        sandbox::EntryKind::Hole { length } => EntryKind::Hole { length: *length },
        sandbox::EntryKind::Special(special) => EntryKind::Special(match special {
            sandbox::Special::Socket => Special::Socket,
            sandbox::Special::Fifo => Special::Fifo,
            sandbox::Special::Device => Special::Device,
        }),
    }
}

fn owner_message(owner: sandbox::Owner) -> proto::Owner {
    proto::Owner { uid: owner.uid, gid: owner.gid }
}

fn exec_message(request: &ExecRequest) -> proto::Exec {
    let user = request.user.as_ref().map(|user| match user {
        sandbox::User::Name(name) => proto::User::Name(name.clone()),
        sandbox::User::Ids { uid, gid } => proto::User::Ids { uid: *uid, gid: *gid },
        sandbox::User::InGroup { user, group } => {
            proto::User::InGroup { user: user.clone(), group: group.clone() }
        }
    });
    proto::Exec {
        argv: request.argv.iter().map(bytes).collect(),
        env: request.env.iter().map(|(name, value)| (bytes(name), bytes(value))).collect(),
        cwd: request.cwd.as_ref().map(bytes),
        user,
        stdin: request.stdin,
        pty: request.pty.map(pty_size),
        timeout: request.timeout.map(proto::Timeout::new),
        is_partial: false,
        stdout_cap: request.output_cap,
        stderr_cap: request.output_cap,
        follow_descendants: request.follow_descendants,
    }
}

fn exit_report(exit: proto::Exit) -> Exit {
    let code = exit.outcome.exit_code();
    Exit {
        outcome: match exit.outcome {
            proto::Outcome::Exited { code } => Outcome::Exited(code),
            proto::Outcome::Signalled { signal, core_dumped } => {
                Outcome::Signalled { signal, core_dumped }
            }
            proto::Outcome::TimedOut => Outcome::TimedOut,
            proto::Outcome::Cancelled => Outcome::Cancelled,
            proto::Outcome::FailedToStart { message, .. } => {
                Outcome::FailedToStart { code, message }
            }
        },
        dropped: exit.stdout.dropped.saturating_add(exit.stderr.dropped),
        duration: Duration::from_micros(exit.duration_us),
        oom_kills: exit.oom_kills,
    }
}

fn output(stream: proto::Stream) -> Stream {
    match stream {
        proto::Stream::Stdout => Stream::Stdout,
        proto::Stream::Stderr => Stream::Stderr,
    }
}

fn pty_size(size: PtySize) -> proto::PtySize {
    proto::PtySize { rows: size.rows, columns: size.columns }
}

fn bytes(text: impl AsRef<OsStr>) -> ByteBuf {
    ByteBuf::from(text.as_ref().as_bytes())
}

fn path_of(bytes: ByteBuf) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.into_vec()))
}
