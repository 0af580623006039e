//! State that outlives a connection.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use vsock_proto::{BootId, Hello, VERSION};

use crate::garbage::Garbage;
use crate::secret::Secret;
use crate::survivor::Survivors;
use crate::sys;

/// The configuration of a service.
#[derive(Debug, Clone)]
pub struct Config {
    /// This boot's id.
    pub boot_id: BootId,
    /// The reason that the previous service ended, if there was one.
    pub previous_failure: Option<String>,
    /// The cgroup below which each command gets one of its own. Without it only a command's
    /// process group is killed.
    pub cgroups: Option<PathBuf>,
    /// The folder that has `etc` in it: accounts are looked up there, host name and time zone are
    /// kept there. `/` in a guest.
    pub root: PathBuf,
    /// Whether clock, entropy and host name of the running kernel are for the host to set.
    pub owns_kernel: bool,
    /// The file that keeps the secret of the link for the next service; only root may
    /// read it. Without it the secret lasts as long as the [`Service`].
    pub secret: Option<Arc<File>>,
}

/// Serves one connection after another.
#[derive(Debug)]
pub struct Service {
    pub(crate) config: Config,
    pub(crate) garbage: Garbage,
    pub(crate) secret: Secret,
    pub(crate) survivors: Survivors,
    /// Whether the kernel spares this process when memory runs out.
    pub(crate) is_spared: bool,
}

impl Service {
    /// A service that has had no connection yet.
    pub fn new(config: Config) -> Self {
        let garbage = Garbage::new(config.cgroups.clone());
        let score = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
        let secret = Secret::kept_in(config.secret.clone());
        // Each command needs some, too.
        let survivors = Survivors::new(sys::open_files_limit() / 4);
        Self { config, garbage, secret, survivors, is_spared: score.starts_with('-') }
    }

    /// How a connection begins.
    pub(crate) fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            boot_id: self.config.boot_id,
            previous_failure: self.config.previous_failure.clone(),
            secret: self.secret.get(),
        }
    }
}
