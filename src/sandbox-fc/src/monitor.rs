//! Firecracker's process: its confinement, by us or by its `jailer`, and its output.
//!
//! In its folder, besides what every VM has:
//!
//! ```text
//!     api.sock      its API
//!     log           a pipe: its log and its standard error
//!     metrics       its counters, a line of JSON a minute
//! ```

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, chown};
use std::time::{Duration, Instant};

use microvm::{Launch, Launched, Member, stderr_tail, wait_for_socket};
use nix::sys::stat::Mode;
use process::{Command, Jail, Network, Resource};

use crate::api::Client;
use crate::jailer::{JAILER, Jailer};
use crate::program::FIRECRACKER;
use crate::remote::Api;
use crate::{Config, Error, Result};

const SOCKET: &str = "api.sock";
const LOG: &str = "log";
/// The limit of its open files.
pub(crate) const FILES: u64 = 2048;
/// How long to wait for the exit of a process that closed its connection.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// A running Firecracker without a VM.
pub(crate) struct Monitor {
    member: Member,
    console: OwnedFd,
    errors: OwnedFd,
}

impl Monitor {
    pub(crate) fn spawn(config: &Config, launch: &Launch<'_>) -> microvm::Result<Self> {
        let (console, console_tx) = std::io::pipe().map_err(descriptors)?;
        let (errors, errors_tx) = make_log(launch).map_err(descriptors)?;
        let confined = match &config.jailer {
            None => confined(config, launch),
            Some(jailer) => jailed(config, jailer, launch),
        };
        let command = confined
            .map_err(of)?
            .args(arguments(config))
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

    /// Connects to its API once it listens.
    pub(crate) fn connect(&self, launch: &Launch<'_>) -> microvm::Result<Client> {
        let socket = launch.folder.vmm_file(SOCKET);
        wait_for_socket(launch, &self.member, SOCKET, &self.errors, || {
            Client::connect(&socket).ok()
        })
    }

    /// The error of a failed call: that Firecracker ended, if it did.
    pub(crate) fn explain(&self, error: Error) -> microvm::Error {
        if !error.is_loss() {
            return of(error);
        }
        match self.member.child.wait_until(Instant::now() + EXIT_TIMEOUT) {
            Ok(Some(status)) => {
                let (program, output) = (FIRECRACKER, stderr_tail(&self.errors));
                microvm::Error::Ended { program, status, output }
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

/// Firecracker's arguments, without the VM's id, which the jailer adds itself.
fn arguments(config: &Config) -> Vec<&'static str> {
    let level = if log::log_enabled!(log::Level::Debug) { "Info" } else { "Warning" };
    let mut arguments = vec!["--api-sock", SOCKET, "--log-path", LOG];
    arguments.extend(["--level", level, "--metrics-path", "metrics"]);
    if !config.seccomp {
        arguments.push("--no-seccomp");
    }
    arguments
}

/// Confined by us: in the VM's root folder if the program is static, else on the host's files.
fn confined<'a>(config: &Config, launch: &Launch<'a>) -> Result<Command<'a>> {
    let program = config.program.open()?;
    let command = limited(FIRECRACKER, program.file, launch);
    let command = command.arg("--id").arg(launch.config.id.to_string());
    let mut credentials = launch.credentials.clone();
    if program.is_static {
        let jail = Jail::new(launch.folder.path().join("vmm")).device("/dev/kvm");
        return Ok(command.credentials(credentials).jail(jail.device("/dev/net/tun")));
    }
    log::warn!("firecracker sees the host's files: its program is not static, as releases are");
    credentials.groups.extend(microvm::kvm_group());
    Ok(command.credentials(credentials).cwd(launch.folder.working_folder()))
}

/// Confined by the jailer, which drops root itself. This clears the parent-death signal.
fn jailed<'a>(config: &Config, jailer: &Jailer, launch: &Launch<'a>) -> Result<Command<'a>> {
    let (file, arguments) = jailer.prepare(&config.program, launch)?;
    Ok(limited(JAILER, file, launch).args(arguments))
}

/// What both ways have in common.
fn limited<'a>(name: &str, program: File, launch: &Launch<'a>) -> Command<'a> {
    Command::opened(name, program)
        .cgroup(launch.cgroup)
        .new_session()
        .no_new_privileges()
        .parent_death_signal(libc::SIGKILL)
        .limit(Resource::CoreDump, 0, 0)
        .limit(Resource::OpenFiles, FILES, FILES)
}

/// A named pipe, which Firecracker opens as its log and has as its standard error.
fn make_log(launch: &Launch<'_>) -> io::Result<(File, File)> {
    let path = launch.folder.vmm_file(LOG);
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let uid = launch.credentials.uid;
    chown(&path, Some(uid), Some(uid))?;
    // The reader first: opening the writer blocks without one.
    let reader = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path)?;
    let writer = File::options().write(true).open(&path)?;
    Ok((reader, writer))
}

/// Wraps an error of Firecracker.
pub(crate) fn of(error: Error) -> microvm::Error {
    microvm::Error::Monitor(error.into())
}

fn descriptors(source: io::Error) -> microvm::Error {
    let program = FIRECRACKER.to_owned();
    microvm::Error::Process(process::Error::Descriptors { program, source })
}
