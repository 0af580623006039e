//! Sandboxes for programs: `[sandboxes]` of `runner.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use super::{Time, invalid};
use crate::error::Result;

/// The most sandboxes at once.
const MOST: u32 = 4096;

/// How programs reach sandboxes, and their limits.
#[derive(Debug, Clone)]
pub struct SandboxesConfig {
    /// Where programs reach the API; none if `runner start` does not serve it.
    pub listen: Vec<SocketAddr>,
    /// The files of the TLS certificate and of its key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The domain below which sandboxes have host names.
    pub domain: Option<String>,
    /// Further host names by which agents reach the server.
    pub mcp_hosts: Vec<String>,
    /// The most sandboxes at once, paused ones included.
    pub max: usize,
    /// The time-out of a sandbox whose request has none.
    pub default_timeout: Duration,
    /// The longest time-out.
    pub max_timeout: Duration,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SandboxesTable {
    listen: Vec<SocketAddr>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    domain: Option<String>,
    mcp_hosts: Vec<String>,
    max: Option<u32>,
    default_timeout: Option<Time>,
    max_timeout: Option<Time>,
}

impl SandboxesTable {
    /// The meaning of the table. Without `max` there are `usual` sandboxes at once.
    pub(super) fn resolve(self, folder: &Path, usual: usize) -> Result<SandboxesConfig> {
        let tls = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => Some((folder.join(cert), folder.join(key))),
            (None, None) => None,
            _ => return Err(invalid("sandboxes.tls_cert, sandboxes.tls_key", "both or none")),
        };
        if self.max.is_some_and(|max| !(1..=MOST).contains(&max)) {
            return Err(invalid("sandboxes.max", "a number from 1 to 4096"));
        }
        let max_timeout = self.max_timeout.map_or(Duration::from_secs(24 * 60 * 60), |time| time.0);
        let usual_timeout = Duration::from_secs(300).min(max_timeout);
        let default_timeout = self.default_timeout.map_or(usual_timeout, |time| time.0);
        if default_timeout.is_zero() || default_timeout > max_timeout {
            let expected = "a time above 0 and not above sandboxes.max_timeout";
            return Err(invalid("sandboxes.default_timeout", expected));
        }
        if self.domain.as_deref().is_some_and(|domain| !is_domain(domain)) {
            return Err(invalid("sandboxes.domain", "a domain name, with or without a port"));
        }
        if !self.mcp_hosts.iter().all(|host| is_domain(host)) {
            return Err(invalid("sandboxes.mcp_hosts", "a list of host names"));
        }
        Ok(SandboxesConfig {
            listen: self.listen,
            tls,
            domain: self.domain,
            mcp_hosts: self.mcp_hosts,
            max: self.max.map_or(usual, |max| max as usize),
            default_timeout,
            max_timeout,
        })
    }
}

/// Whether a text is a domain name, perhaps with a port.
pub fn is_domain(text: &str) -> bool {
    let (name, port) = text.split_once(':').unwrap_or((text, "1"));
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    name.len() <= 200 && name.split('.').all(is_label) && port.parse::<u16>().is_ok()
}
