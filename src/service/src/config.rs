//! `runner.toml`: the configuration of the service.
//!
//! `examples/runner.toml` documents every key with its default; a test parses it.
//! [`File`] mirrors the file, [`Config`] is its validated meaning.

mod api;
mod profile;
mod sandboxes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

pub(crate) use self::api::Api;
use self::api::ApiTable;
pub use self::profile::Profile;
use self::profile::ProfileTable;
use self::sandboxes::SandboxesTable;
pub use self::sandboxes::{SandboxesConfig, is_domain};
use super::admission::Resources;
use crate::error::{Error, Result, Usage};

/// The profile of jobs that name no profile.
pub(crate) const DEFAULT_PROFILE: &str = "default";

/// The most parked VMs: a heartbeat lists the session of each.
const MAX_PARKED: u32 = 1024;

/// The configuration of the service.
#[derive(Debug, Clone)]
pub struct Config {
    /// The runner's name.
    pub name: String,
    pub(crate) group: String,
    /// The CPUs and memory of all jobs' VMs together.
    pub(crate) budget: Resources,
    /// How many VMs may run at once.
    pub max_concurrent: usize,
    pub(crate) cancel_grace: Duration,
    /// How many VMs are parked for their sessions, and for how long.
    pub(crate) parked: usize,
    pub(crate) parked_for: Duration,
    pub(crate) api: Option<Api>,
    #[cfg_attr(
        not(feature = "platform"),
        expect(dead_code, reason = "only the embedded platform reads it")
    )]
    pub(crate) local: Local,
    /// Sandboxes for programs.
    pub sandboxes: SandboxesConfig,
    /// The kinds of VMs, by name.
    pub profiles: BTreeMap<String, Profile>,
}

/// The embedded platform.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(feature = "platform"),
    expect(dead_code, reason = "only the embedded platform reads it")
)]
pub(crate) struct Local {
    /// Further addresses that it listens on.
    pub(crate) listen: Vec<SocketAddr>,
    /// The port of the gateway at which guests reach it.
    pub(crate) guest_port: u16,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    runner: RunnerTable,
    api: Option<ApiTable>,
    local: LocalTable,
    sandboxes: SandboxesTable,
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

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct LocalTable {
    listen: Vec<SocketAddr>,
    guest_port: Option<u16>,
}

/// A duration in the format of the command line.
struct Time(Duration);

impl Config {
    /// Reads a configuration file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::File {
            operation: "read",
            path: path.to_owned(),
            source,
        })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let file = toml::from_str(&text)
            .map_err(|source| Usage::Config { path: path.to_owned(), source })?;
        Self::resolve(file, folder, &Machine::detect())
    }

    /// The configuration without a file.
    pub fn default_for_host() -> Result<Self> {
        Self::resolve(File::default(), Path::new("."), &Machine::detect())
    }

    /// Checks that there is a platform in `[api]` that jobs of all profiles can reach.
    pub fn check_remote(&self) -> Result<()> {
        self.remote()?;
        match self.profiles.iter().find(|(_, profile)| profile.network.is_none()) {
            Some((name, _)) => Err(Usage::ProfileWithoutNetwork { name: name.clone() }.into()),
            None => Ok(()),
        }
    }

    /// The platform of `[api]`.
    pub(crate) fn remote(&self) -> Result<&Api> {
        Ok(self.api.as_ref().ok_or(Usage::NoPlatform)?)
    }

    /// The most VMs at once: those of jobs and sandboxes, warm, parked and paused ones.
    pub fn max_vms(&self) -> usize {
        let warm: usize = self.profiles.values().map(|profile| profile.warm as usize).sum();
        let paused = if self.sandboxes.listen.is_empty() { 0 } else { self.sandboxes.max };
        self.max_concurrent + self.parked + warm + paused
    }

    /// Validates `file`, whose paths are relative to `folder`.
    fn resolve(file: File, folder: &Path, machine: &Machine) -> Result<Self> {
        let File { runner, api, local, sandboxes, mut profiles } = file;
        profiles.entry(DEFAULT_PROFILE.to_owned()).or_default();
        let overcommit = runner.cpu_overcommit.unwrap_or(2.0);
        if !(0.1..=64.0).contains(&overcommit) {
            return Err(invalid("runner.cpu_overcommit", "a factor from 0.1 to 64"));
        }
        let vcpus = f64::from(runner.vcpus.unwrap_or(machine.vcpus)) * overcommit;
        let all = runner.memory_mib.unwrap_or(machine.memory_mib);
        let profiles: BTreeMap<_, _> = profiles
            .into_iter()
            .map(|(name, table)| Ok((name.clone(), table.resolve(&name, folder)?)))
            .collect::<Result<_>>()?;
        // Warm VMs use their memory even without jobs.
        let warm =
            profiles.values().map(|one| u64::from(one.warm) * u64::from(one.resources.memory_mib));
        let memory_mib = u64::from(all).saturating_sub(warm.sum());
        let budget = Resources { vcpus: vcpus.max(1.0) as u32, memory_mib: memory_mib as u32 };
        for (name, profile) in &profiles {
            if !budget.covers(profile.resources) {
                let (name, needed) = (name.clone(), profile.resources);
                let (needed, budget) = (needed.to_string(), budget.to_string());
                return Err(Usage::ProfileTooLarge { name, needed, budget }.into());
            }
        }
        let capacity =
            profiles.values().map(|profile| budget.capacity_for(profile.resources)).max();
        let max_concurrent = runner.max_concurrent.unwrap_or(capacity.unwrap_or(1)).clamp(1, 1024);
        if runner.parked > MAX_PARKED {
            return Err(invalid("runner.parked", "a number up to 1024"));
        }
        let group = runner.group.unwrap_or_else(|| "local/default".to_owned());
        if !contract::is_group(&group) {
            let expected = "scope/name, of lower-case letters, digits and `-`";
            return Err(invalid("runner.group", expected));
        }
        Ok(Self {
            name: runner.name.unwrap_or_else(|| machine.name.clone()),
            group,
            budget,
            max_concurrent: max_concurrent as usize,
            cancel_grace: runner.cancel_grace.map_or(Duration::from_secs(90), |time| time.0),
            parked: runner.parked as usize,
            parked_for: runner.parked_for.map_or(Duration::from_secs(10 * 60), |time| time.0),
            api: api.map(|api| api.resolve(folder)).transpose()?,
            local: Local { listen: local.listen, guest_port: local.guest_port.unwrap_or(8700) },
            sandboxes: sandboxes.resolve(folder, max_concurrent as usize)?,
            profiles,
        })
    }
}

fn invalid(key: &str, expected: &'static str) -> Error {
    Usage::ConfigValue { key: key.to_owned(), expected }.into()
}

/// The host's name and resources.
struct Machine {
    name: String,
    vcpus: u32,
    /// The memory for VMs: four fifths of the host's.
    memory_mib: u32,
}

impl Machine {
    fn detect() -> Self {
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
        base::duration::parse(&text).map(Self).map_err(serde::de::Error::custom)
    }
}
