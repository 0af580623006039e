//! Firecracker's process: how it is confined, and what it says.
//!
//! In its folder, besides what every VM has:
//!
//! ```text
//!     api.sock      its API
//!     log           a pipe: its log, and what it says as it dies
//!     metrics       what it counts, a line of JSON a minute
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::time::{Duration, Instant};

use microvm::{Launch, Launched, Member, last_words, wait_for_socket};
use nix::sys::stat::Mode;
use process::{Command, Jail, Network, Resource};

use crate::api::Client;
use crate::program::{FIRECRACKER, Opened};
use crate::remote::Api;
use crate::{Config, Error};

const SOCKET: &str = "api.sock";
const LOG: &str = "log";
/// The files that it may have open.
const FILES: u64 = 2048;
/// How long one that broke its connection may take to end.
const DEATH: Duration = Duration::from_secs(1);

/// A Firecracker that runs, without a VM in it yet.
pub(crate) struct Monitor {
    member: Member,
    console: OwnedFd,
    errors: OwnedFd,
}

impl Monitor {
    pub(crate) fn spawn(config: &Config, launch: &Launch<'_>) -> microvm::Result<Self> {
        let program = config.program.open().map_err(of)?;
        let (console, console_tx) = std::io::pipe().map_err(descriptors)?;
        let (errors, errors_tx) = make_log(launch).map_err(descriptors)?;
        let command = arguments(config, launch)
            .into_iter()
            .fold(confined(program, launch), Command::arg)
            .stdout(OwnedFd::from(console_tx))
            .stderr(errors_tx);
        let command = match launch.network {
            None => command.network(Network::Empty),
            Some(network) => {
                let namespace = network.give_tap(launch.credentials.uid);
                command.network(Network::Namespace(namespace.map_err(microvm::Error::Network)?))
            }
        };
        let child = command.spawn().map_err(microvm::Error::Process)?;
        let member = Member { program: FIRECRACKER, child };
        Ok(Self { member, console: console.into(), errors: errors.into() })
    }

    /// Connects to its API, as soon as that listens.
    pub(crate) fn connect(&self, launch: &Launch<'_>) -> microvm::Result<Client> {
        let socket = launch.folder.vmm_file(SOCKET);
        wait_for_socket(launch, &self.member, SOCKET, &self.errors, || {
            Client::connect(&socket).ok()
        })
    }

    /// What a failed call means: if Firecracker has died of it, then that.
    pub(crate) fn explain(&self, error: Error) -> microvm::Error {
        if !error.is_loss() {
            return of(error);
        }
        match self.member.child.wait_until(Instant::now() + DEATH) {
            Ok(Some(status)) => {
                let (program, words) = (FIRECRACKER, last_words(&self.errors));
                microvm::Error::Ended { program, status, words }
            }
            _ => of(error),
        }
    }

    pub(crate) fn launched(self, client: Client) -> Launched {
        let Self { member, console, errors } = self;
        let remote = Box::new(Api(client));
        Launched { monitor: member, helpers: Vec::new(), remote, console, errors }
    }
}

fn arguments(config: &Config, launch: &Launch<'_>) -> Vec<String> {
    let level = if log::log_enabled!(log::Level::Debug) { "Info" } else { "Warning" };
    let id = launch.config.id.to_string();
    let mut arguments: Vec<String> = ["--id", &id, "--api-sock", SOCKET, "--log-path", LOG]
        .into_iter()
        .chain(["--level", level, "--metrics-path", "metrics"])
        .map(str::to_owned)
        .collect();
    if !config.seccomp {
        arguments.push("--no-seccomp".to_owned());
    }
    arguments
}

/// A program that needs other files cannot run where there are none.
fn confined<'a>(program: Opened, launch: &Launch<'a>) -> Command<'a> {
    let command = Command::opened(FIRECRACKER, program.file)
        .cgroup(launch.cgroup)
        .new_session()
        .no_new_privileges()
        .parent_death_signal(libc::SIGKILL)
        .limit(Resource::CoreDump, 0, 0)
        .limit(Resource::OpenFiles, FILES, FILES);
    let mut credentials = launch.credentials.clone();
    if program.is_static {
        let jail = Jail::new(launch.folder.path().join("vmm")).device("/dev/kvm");
        return command.credentials(credentials).jail(jail.device("/dev/net/tun"));
    }
    log::warn!("firecracker sees the host's files: its program is not static, as releases are");
    credentials.groups.extend(microvm::kvm_group());
    command.credentials(credentials).cwd(launch.folder.working_folder())
}

/// A pipe with a name, so that Firecracker opens it as its log, and its standard error is the same.
fn make_log(launch: &Launch<'_>) -> io::Result<(File, File)> {
    let path = launch.folder.vmm_file(LOG);
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let uid = launch.credentials.uid;
    chown(&path, Some(uid), Some(uid))?;
    // The reader first: a writer without one would wait for it.
    let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
    let writer = File::options().write(true).open(&path)?;
    Ok((reader, writer))
}

fn of(error: Error) -> microvm::Error {
    microvm::Error::Monitor(error.into())
}

fn descriptors(source: io::Error) -> microvm::Error {
    let program = FIRECRACKER.to_owned();
    microvm::Error::Process(process::Error::Descriptors { program, source })
}
