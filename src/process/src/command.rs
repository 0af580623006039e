//! The description of a process to be started.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::{Child, Jail, Result, spawn};

/// A process to be started. It inherits only what is named here: its environment starts empty,
/// its standard streams are `/dev/null`, every other descriptor is closed, all signals have
/// their default actions.
#[derive(Debug)]
pub struct Command<'a> {
    pub(crate) program: OsString,
    pub(crate) file: Option<File>,
    pub(crate) shown_as: Option<OsString>,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(OsString, OsString)>,
    pub(crate) cwd: Option<PathBuf>,
    pub(crate) stdio: [Option<OwnedFd>; 3],
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) network: Network<'a>,
    pub(crate) jail: Option<Jail>,
    pub(crate) session: bool,
    pub(crate) terminal: bool,
    pub(crate) no_new_privileges: bool,
    pub(crate) parent_death_signal: Option<i32>,
    pub(crate) limits: Vec<Limit>,
    pub(crate) oom_score: Option<i32>,
}

/// The UID, GID and groups of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// All supplementary groups.
    pub groups: Vec<u32>,
}

/// A resource that can be limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Open files.
    OpenFiles,
    /// The size of a core dump in bytes.
    CoreDump,
}

/// A resource limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) resource: Resource,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

/// The network namespace of a process.
#[derive(Debug, Default)]
pub enum Network<'a> {
    /// The parent's namespace.
    #[default]
    Inherited,
    /// A new namespace with only a loopback device, which is down.
    Empty,
    /// An existing namespace.
    Namespace(BorrowedFd<'a>),
}

impl<'a> Command<'a> {
    /// Runs `program`: a path if it has a slash, else looked up in the `PATH` of the
    /// environment that it is given.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            file: None,
            shown_as: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            cwd: None,
            stdio: [None, None, None],
            descriptors: Vec::new(),
            cgroup: None,
            credentials: None,
            network: Network::Inherited,
            jail: None,
            session: false,
            terminal: false,
            no_new_privileges: false,
            parent_death_signal: None,
            limits: Vec::new(),
            oom_score: None,
        }
    }

    /// Runs an opened program, called `name`, by its descriptor. Does not work for scripts.
    pub fn opened(name: impl AsRef<OsStr>, program: File) -> Self {
        Self { file: Some(program), ..Self::new(name) }
    }

    /// Sets the program's `argv[0]`, which is also its name in errors.
    #[must_use]
    pub fn shown_as(mut self, name: impl AsRef<OsStr>) -> Self {
        self.shown_as = Some(name.as_ref().to_owned());
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// One more variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The folder to start in; `/` if none is named.
    #[must_use]
    pub fn cwd(mut self, folder: impl AsRef<Path>) -> Self {
        self.cwd = Some(folder.as_ref().to_owned());
        self
    }

    /// Standard input.
    #[must_use]
    pub fn stdin(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        self.stdio[0] = Some(descriptor.into());
        self
    }

    /// Standard output.
    #[must_use]
    pub fn stdout(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        self.stdio[1] = Some(descriptor.into());
        self
    }

    /// Standard error.
    #[must_use]
    pub fn stderr(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        self.stdio[2] = Some(descriptor.into());
        self
    }

    /// Passes one more descriptor; the first is number 3.
    #[must_use]
    pub fn descriptor(mut self, descriptor: impl Into<OwnedFd>) -> Self {
        self.descriptors.push(descriptor.into());
        self
    }

    /// The cgroup into which it is cloned.
    #[must_use]
    pub fn cgroup(mut self, cgroup: &'a crate::Cgroup) -> Self {
        self.cgroup = Some(cgroup.descriptor());
        self
    }

    /// Its UID, GID and groups.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Its network namespace.
    #[must_use]
    pub fn network(mut self, network: Network<'a>) -> Self {
        self.network = network;
        self
    }

    /// Its root folder; needs root. All paths, also the working folder's, are relative to it.
    #[must_use]
    pub fn jail(mut self, jail: Jail) -> Self {
        self.jail = Some(jail);
        self
    }

    /// Makes it the leader of a new session.
    #[must_use]
    pub fn new_session(mut self) -> Self {
        self.session = true;
        self
    }

    /// Makes it the leader of a new session with standard input as its terminal.
    #[must_use]
    pub fn controlling_terminal(mut self) -> Self {
        (self.session, self.terminal) = (true, true);
        self
    }

    /// Sets `no_new_privs`.
    #[must_use]
    pub fn no_new_privileges(mut self) -> Self {
        self.no_new_privileges = true;
        self
    }

    /// Sends it `signal` when the *thread* that spawned it ends.
    #[must_use]
    pub fn parent_death_signal(mut self, signal: i32) -> Self {
        self.parent_death_signal = Some(signal);
        self
    }

    /// Set a resource limit.
    #[must_use]
    pub fn limit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.limits.push(Limit { resource, soft, hard });
        self
    }

    /// Its `oom_score_adj`, from -1000 to 1000; inherited by default.
    #[must_use]
    pub fn oom_score(mut self, adjustment: i32) -> Self {
        self.oom_score = Some(adjustment);
        self
    }

    /// Starts it. When this returns, the program itself is running.
    pub fn spawn(self) -> Result<Child> {
        spawn::spawn(self)
    }

    /// The program's name, for error texts.
    pub(crate) fn name(&self) -> String {
        self.argument_zero().to_string_lossy().into_owned()
    }

    pub(crate) fn argument_zero(&self) -> &OsStr {
        self.shown_as.as_ref().unwrap_or(&self.program)
    }
}
