//! `[api]`: a remote platform.

use std::path::{Path, PathBuf};

use ably_subscriber::Hosts;
use serde::Deserialize;

use super::invalid;
use crate::endpoint::Endpoint;
use crate::error::Result;

/// The most addresses of a platform: a request may go to each of them.
const MAX_URLS: usize = 16;

/// A remote platform.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// The platform's addresses.
    pub(crate) urls: Vec<String>,
    /// Certificate authorities, besides the host's, that the platform's certificate may be issued by.
    pub(crate) ca: Option<PathBuf>,
    pub(crate) token_file: PathBuf,
    /// The environment variable with the bypass secret of a protected deployment.
    pub(crate) bypass: Option<String>,
    /// The realtime service that pushes jobs; `None` disables pushes.
    pub(crate) push: Option<Hosts>,
    /// Further endpoints that VMs may reach regardless of their profile's policy.
    pub(crate) reachable: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiTable {
    url: Urls,
    ca: Option<PathBuf>,
    token_file: PathBuf,
    bypass_env: Option<String>,
    push: Option<bool>,
    realtime_host: Option<String>,
    #[serde(default)]
    reachable: Vec<String>,
}

/// One URL, or several.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a URL, or a list of URLs")]
enum Urls {
    One(String),
    Several(Vec<String>),
}

impl Urls {
    fn resolve(self) -> Result<Vec<String>> {
        let all = match self {
            Self::One(url) => vec![url],
            Self::Several(all) => all,
        };
        let all: Vec<_> = all.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        if !(1..=MAX_URLS).contains(&all.len()) || !all.iter().all(|url| is_url(url)) {
            return Err(invalid(
                "api.url",
                "a URL like https://platform.example, or up to 16 of them",
            ));
        }
        Ok(all)
    }
}

fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    !host.is_empty() && !url.contains(|c: char| c.is_whitespace() || c == '?' || c == '#')
}

impl Api {
    /// The platform's addresses for a text.
    pub(crate) fn names(&self) -> String {
        self.urls.join(", ")
    }
}

impl ApiTable {
    pub(super) fn resolve(self, folder: &Path) -> Result<Api> {
        let (urls, token_file) = (self.url.resolve()?, folder.join(self.token_file));
        let ca = self.ca.map(|path| folder.join(path));
        let hosts = self.realtime_host.map(|host| Hosts::new(&host, &host)).transpose();
        let hosts =
            hosts.map_err(|_| invalid("api.realtime_host", "a host, with or without a port"));
        let push = self.push.unwrap_or(true).then_some(hosts?.unwrap_or_default());
        let reachable: Option<_> =
            self.reachable.iter().map(|text| Endpoint::parse(text)).collect();
        let expected = "a list of HOST or HOST:PORT, where HOST is a name or an IPv4 address";
        let reachable = reachable.ok_or_else(|| invalid("api.reachable", expected))?;
        Ok(Api { urls, ca, token_file, bypass: self.bypass_env, push, reachable })
    }
}
