//! What starts the VMs of sandboxes. The service, `runner sandbox serve`, `runner mcp` and the fakes of tests implement it.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use sandbox::{Cancellation, Cause, Network, Sandbox, SandboxConfig};

/// Starts sandboxes.
pub trait Launcher: Send + Sync + 'static {
    /// The templates that sandboxes are made from.
    fn templates(&self) -> Vec<Template>;

    /// Starts a sandbox, or takes a warm one. Blocks until it takes commands, or until `cancellation`.
    fn launch(
        &self,
        request: &LaunchRequest,
        cancellation: &Cancellation,
    ) -> Result<Launched, LaunchError>;

    /// The network that a running sandbox of `config` gets by another request. A launcher that does not
    /// implement this cannot change networks.
    fn network(
        &self,
        config: &SandboxConfig,
        request: &NetworkRequest,
    ) -> Result<Network, LaunchError> {
        let _ = (config, request);
        let what = "changing the network of a running sandbox".to_owned();
        Err(LaunchError::Unsupported { what })
    }
}

/// A kind of sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Template {
    /// Its name, unique.
    pub name: String,
    /// Its other names.
    pub aliases: Vec<String>,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// Memory, in MiB.
    pub memory_mib: u32,
    /// Size of the disk, in MiB.
    pub disk_mib: u64,
}

impl Template {
    /// Whether it has this name. The tag `default` means the same as none.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        let bare = name.strip_suffix(":default").unwrap_or(name);
        self.name == bare || self.aliases.iter().any(|alias| alias == bare)
    }
}

/// A request for a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LaunchRequest {
    /// The name of one of the launcher's templates ([`Template::name`]).
    pub template: String,
    /// The VM's name and host name; unique.
    pub name: String,
    /// Labels to list.
    pub labels: BTreeMap<String, String>,
    /// Where it may connect to.
    pub network: NetworkRequest,
    /// An IANA time zone; UTC if none.
    pub timezone: Option<String>,
}

/// Which destinations a sandbox may connect to. `allow_out` wins over `deny_out`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRequest {
    /// Whether destinations in neither list are reached.
    pub allow_internet: bool,
    /// Destinations that are reached.
    pub allow_out: Vec<Destination>,
    /// Networks that are not reached.
    pub deny_out: Vec<Ipv4Net>,
}

impl Default for NetworkRequest {
    fn default() -> Self {
        Self { allow_internet: true, allow_out: Vec::new(), deny_out: Vec::new() }
    }
}

/// A destination of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The addresses of a network.
    Net(Ipv4Net),
    /// A host name, in lower case. `*.` at its beginning stands for all names below.
    Host(String),
}

/// A sandbox that takes commands.
pub struct Launched {
    /// The sandbox.
    pub sandbox: Box<dyn Sandbox>,
    /// Its configuration, for [`Sandbox::assign`] after a pause.
    pub config: SandboxConfig,
    /// Its share of the host.
    pub reservation: Box<dyn Reservation>,
}

/// A sandbox's share of the host: CPUs, memory. It is dropped after the sandbox's end.
pub trait Reservation: Send {
    /// The sandbox is paused: its vCPUs are free for others. Does not block.
    fn pause(&mut self) {}

    /// Takes the vCPUs back before the sandbox resumes. Does not block.
    fn resume(&mut self) -> Result<(), LaunchError> {
        Ok(())
    }
}

/// No share.
impl Reservation for () {}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the texts say it")]
pub enum LaunchError {
    #[error("template `{name}` does not exist")]
    UnknownTemplate { name: String },
    #[error("this host has no room for the sandbox: {reason}")]
    NoRoom { reason: String },
    #[error("the server is stopping")]
    Stopping,
    #[error("this server does not support {what}")]
    Unsupported { what: String },
    #[error("cannot start the sandbox")]
    Failed(#[source] Cause),
}
