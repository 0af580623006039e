//! What callers ask for.

use std::collections::BTreeMap;
use std::time::Duration;

use super::budget::Limits;
use crate::launcher::NetworkRequest;

/// Who calls: the key whose sandboxes it sees, and that key's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The key's id.
    pub key: String,
    /// What the key's sandboxes may have together.
    pub limits: Limits,
}

impl Caller {
    /// A caller without a key, such as a program that uses the registry in its own process.
    #[must_use]
    pub fn local() -> Self {
        Self { key: String::new(), limits: Limits::default() }
    }
}

/// A request for a sandbox.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// A template's name or alias.
    pub template: String,
    /// When it is ended or paused; [`Settings::default_timeout`] if none.
    pub timeout: Option<Duration>,
    /// What the caller keeps with it and lists it by.
    pub metadata: BTreeMap<String, String>,
    /// The environment of its commands.
    pub env: BTreeMap<String, String>,
    /// What happens at its time-out, and to requests after it.
    pub lifecycle: Lifecycle,
    /// Where it may connect to.
    pub network: NetworkRequest,
    /// Whether its ports are reached without its traffic token.
    pub allow_public_traffic: bool,
    /// The Host header of requests to its ports; `${PORT}` stands for the port.
    pub mask_request_host: Option<String>,
}

impl CreateRequest {
    /// A sandbox of `template` that differs in nothing else.
    pub fn new(template: impl Into<String>) -> Self {
        Self {
            template: template.into(),
            timeout: None,
            metadata: BTreeMap::new(),
            env: BTreeMap::new(),
            lifecycle: Lifecycle::default(),
            network: NetworkRequest::default(),
            allow_public_traffic: true,
            mask_request_host: None,
        }
    }
}

/// What happens at a sandbox's time-out, and to requests after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lifecycle {
    /// The time-out pauses it; else it ends it.
    pub pauses_on_timeout: bool,
    /// A request to the paused sandbox resumes it.
    pub resumes_on_request: bool,
}

/// The limits of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// The time-out of a request without one.
    pub default_timeout: Duration,
    /// The longest time-out.
    pub max_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(300),
            max_timeout: Duration::from_secs(24 * 60 * 60),
        }
    }
}
