//! How a server behaves.

use std::time::Duration;

/// How the server behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// The template of sandboxes for which none is named; `base`, else `default`, if none.
    pub template: Option<String>,
    /// How long a sandbox stays without being used; the registry's default if none.
    pub timeout: Option<Duration>,
    /// How long a command may run that names no time.
    pub command_timeout: Duration,
    /// The most bytes of text in a result.
    pub max_result: usize,
    /// The version of the program.
    pub version: &'static str,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            template: None,
            timeout: None,
            command_timeout: Duration::from_secs(120),
            // Claude Code warns above 10,000 tokens and cuts at 25,000.
            max_result: 30_000,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}
