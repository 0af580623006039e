//! `runner.toml`: what the service is to be.
//!
//! Every key is in `examples/runner.toml`, with what it means and its default; a test reads that.
//! Two levels: [`File`] is what was written, [`Config`] what it means.

mod profile;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ably_subscriber::Hosts;
use serde::Deserialize;

pub(crate) use self::profile::Profile;
use self::profile::ProfileTable;
use super::admission::Amount;
use super::endpoint::Endpoint;
use crate::error::{Error, Result, Usage};
use crate::value;

/// The profile of jobs that name none.
pub(crate) const DEFAULT_PROFILE: &str = "default";

/// As many sessions as a platform is told of.
const MOST_PARKED: u32 = 1024;

/// The service.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) group: String,
    /// What jobs' VMs may have together.
    pub(crate) budget: Amount,
    /// How many VMs may run at once.
    pub(crate) max_concurrent: usize,
    pub(crate) cancel_grace: Duration,
    /// How many VMs are kept for their sessions, and for how long.
    pub(crate) parked: usize,
    pub(crate) parked_for: Duration,
    pub(crate) api: Option<Api>,
    #[cfg_attr(not(feature = "platform"), expect(dead_code, reason = "it is said all the same"))]
    pub(crate) local: Local,
    pub(crate) profiles: BTreeMap<String, Profile>,
}

/// A platform elsewhere.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) url: String,
    pub(crate) token_file: PathBuf,
    /// The environment variable with what opens a protected deployment.
    pub(crate) bypass: Option<String>,
    /// By whom jobs may be pushed, if at all.
    pub(crate) push: Option<Hosts>,
    /// Endpoints that VMs reach besides the platform's, whatever their profile's policy.
    pub(crate) reachable: Vec<Endpoint>,
}

/// The embedded platform.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "platform"), expect(dead_code, reason = "it is said all the same"))]
pub(crate) struct Local {
    /// Where it listens besides.
    pub(crate) listen: Vec<SocketAddr>,
    /// By which port of their gateway guests reach it.
    pub(crate) guest_port: u16,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    runner: RunnerTable,
    api: Option<ApiTable>,
    local: LocalTable,
    profiles: BTreeMap<String, ProfileTable>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RunnerTable {
    name: Option<String>,
    group: Option<String>,
    vcpus: Option<u32>,
    memory_mib: Option<u32>,
    cpu_overcommit: Option<f64>,
    max_concurrent: Option<u32>,
    cancel_grace: Option<Time>,
    parked: u32,
    parked_for: Option<Time>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApiTable {
    url: String,
    token_file: PathBuf,
    bypass_env: Option<String>,
    push: Option<bool>,
    realtime_host: Option<String>,
    #[serde(default)]
    reachable: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LocalTable {
    listen: Vec<SocketAddr>,
    guest_port: Option<u16>,
}

/// A time as on the command line.
struct Time(Duration);

impl Config {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            operation: "read",
            path: path.to_owned(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let file = toml::from_str(&text)
            .map_err(|source| Usage::Config { path: path.to_owned(), source })?;
        Self::understand(file, folder, &Machine::look())
    }

    /// What it is where there is no file.
    pub(crate) fn standard() -> Result<Self> {
        Self::understand(File::default(), Path::new("."), &Machine::look())
    }

    /// Paths in it are relative to `folder`.
    fn understand(file: File, folder: &Path, machine: &Machine) -> Result<Self> {
        let File { runner, api, local, mut profiles } = file;
        profiles.entry(DEFAULT_PROFILE.to_owned()).or_default();
        let overcommit = runner.cpu_overcommit.unwrap_or(2.0);
        if !(0.1..=64.0).contains(&overcommit) {
            return Err(wrong("runner.cpu_overcommit", "a factor from 0.1 to 64"));
        }
        let vcpus = f64::from(runner.vcpus.unwrap_or(machine.vcpus)) * overcommit;
        let all = runner.memory_mib.unwrap_or(machine.memory_mib);
        let profiles: BTreeMap<_, _> = profiles
            .into_iter()
            .map(|(name, table)| Ok((name.clone(), table.understand(&name, folder)?)))
            .collect::<Result<_>>()?;
        // Warm VMs have their memory whether or not there are jobs.
        let warm =
            profiles.values().map(|one| u64::from(one.warm) * u64::from(one.amount.memory_mib));
        let memory_mib = u64::from(all).saturating_sub(warm.sum());
        let budget = Amount { vcpus: vcpus.max(1.0) as u32, memory_mib: memory_mib as u32 };
        for (name, profile) in &profiles {
            if !budget.covers(profile.amount) {
                let (name, needed) = (name.clone(), profile.amount);
                return Err(Usage::ProfileTooLarge {
                    name,
                    needed: needed.to_string(),
                    budget: budget.to_string(),
                }
                .into());
            }
        }
        let least = profiles.values().map(|profile| budget.times(profile.amount)).max();
        let most = runner.max_concurrent.unwrap_or(least.unwrap_or(1)).clamp(1, 1024);
        if runner.parked > MOST_PARKED {
            return Err(wrong("runner.parked", "a number up to 1024"));
        }
        let group = runner.group.unwrap_or_else(|| "local/default".to_owned());
        check_group(&group)?;
        Ok(Self {
            name: runner.name.unwrap_or_else(|| machine.name.clone()),
            group,
            budget,
            max_concurrent: most as usize,
            cancel_grace: runner.cancel_grace.map_or(Duration::from_secs(90), |time| time.0),
            parked: runner.parked as usize,
            parked_for: runner.parked_for.map_or(Duration::from_secs(10 * 60), |time| time.0),
            api: api.map(|api| api.understand(folder)).transpose()?,
            local: Local { listen: local.listen, guest_port: local.guest_port.unwrap_or(8700) },
            profiles,
        })
    }
}

impl ApiTable {
    fn understand(self, folder: &Path) -> Result<Api> {
        let url = self.url.trim_end_matches('/');
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
        if host.is_empty() || url.contains(|c: char| c.is_whitespace() || c == '?' || c == '#') {
            return Err(wrong("api.url", "an address like https://platform.example"));
        }
        let (url, token_file) = (url.to_owned(), folder.join(self.token_file));
        let hosts = self.realtime_host.map(|host| Hosts::new(&host, &host)).transpose();
        let hosts = hosts.map_err(|_| wrong("api.realtime_host", "a host, with or without a port"));
        let push = self.push.unwrap_or(true).then_some(hosts?.unwrap_or_default());
        let reachable: Option<_> =
            self.reachable.iter().map(|text| Endpoint::parse(text)).collect();
        let expected = "a list of HOST or HOST:PORT, where HOST is a name or an IPv4 address";
        let reachable = reachable.ok_or_else(|| wrong("api.reachable", expected))?;
        Ok(Api { url, token_file, bypass: self.bypass_env, push, reachable })
    }
}

fn wrong(key: &str, expected: &'static str) -> Error {
    Usage::ConfigValue { key: key.to_owned(), expected }.into()
}

/// `scope/name`.
fn check_group(group: &str) -> Result<()> {
    let good = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    match group.split_once('/') {
        Some((scope, name)) if good(scope) && good(name) => Ok(()),
        _ => Err(wrong("runner.group", "scope/name, of small letters, digits and `-`")),
    }
}

/// What this host has.
struct Machine {
    name: String,
    vcpus: u32,
    /// What VMs may have of its memory: four fifths.
    memory_mib: u32,
}

impl Machine {
    fn look() -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let vcpus = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let total = meminfo.lines().find_map(|line| {
            line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        });
        let memory_mib = (total.unwrap_or(2 << 20) >> 10) * 4 / 5;
        Self { name: name.trim().to_owned(), vcpus, memory_mib: memory_mib as u32 }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        value::duration(&text).map(Self).map_err(serde::de::Error::custom)
    }
}
