//! VM profiles of `runner.toml`.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use egress::network::LimitsTable;
use egress::{InterceptionPolicy, NetworkChoice, disk, network};
use sandbox::{DiskLimits, Network};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Time, invalid};
use crate::admission::Resources;
use crate::error::Result;

const MAX_WARM: u32 = 64;

/// The configuration of a kind of VM.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name in the configuration.
    pub name: String,
    /// The name of its image.
    pub image: String,
    /// CPUs and memory.
    pub resources: Resources,
    /// The disk size; the image's default if `None`.
    pub disk_mib: Option<u64>,
    /// The disk's bandwidth and operations.
    pub disk_limits: DiskLimits,
    /// The network with its packet policy; `None` for no network.
    pub network: Option<Network>,
    /// The interception policy, if the network is intercepted.
    pub interception: Option<InterceptionPolicy>,
    pub(crate) timeout: Duration,
    pub(crate) mock_claude: bool,
    /// Whether VMs trust the certificate authorities that were added to the host.
    pub(crate) host_ca: bool,
    /// How many warm VMs are kept.
    pub(crate) warm: u32,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ProfileTable {
    image: Option<String>,
    vcpus: Option<u32>,
    memory_mib: Option<u32>,
    disk: Option<Disk>,
    disk_limits: disk::LimitsTable,
    network: Option<Choice>,
    limits: Option<LimitsTable>,
    timeout: Option<Time>,
    mock_claude: bool,
    host_ca: Option<bool>,
    warm: u32,
}

/// A disk size in the format of the command line.
struct Disk(u64);

/// A network in the format of the command line, or an inline policy.
enum Choice {
    Named(NetworkChoice),
    Inline(Network),
}

impl ProfileTable {
    pub(super) fn resolve(self, name: &str, folder: &Path) -> Result<Profile> {
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_valid) {
            let key = format!("profiles.{name:?}");
            return Err(invalid(&key, "a name of letters, digits, `-`, `_`, `.` and `/`"));
        }
        let resources = Resources {
            vcpus: self.vcpus.unwrap_or(1),
            memory_mib: self.memory_mib.unwrap_or(1024),
        };
        if !(1..=64).contains(&resources.vcpus) {
            return Err(invalid(&format!("profiles.{name}.vcpus"), "a number from 1 to 64"));
        }
        if resources.memory_mib < 96 {
            return Err(invalid(&format!("profiles.{name}.memory_mib"), "at least 96"));
        }
        let choice = self.network.unwrap_or(Choice::Named(NetworkChoice::Intercept(None)));
        let (mut network, interception) = choice.read(folder)?;
        match (&self.limits, &mut network) {
            (None, _) => {}
            (Some(limits), Some(network)) => network.limits = limits.over(network.limits),
            (Some(_), None) => {
                return Err(invalid(
                    &format!("profiles.{name}.limits"),
                    "a network: there is none to limit",
                ));
            }
        }
        if self.warm > MAX_WARM {
            return Err(invalid(&format!("profiles.{name}.warm"), "a number up to 64"));
        }
        Ok(Profile {
            name: name.to_owned(),
            image: self.image.unwrap_or_else(|| "default".to_owned()),
            resources,
            disk_mib: self.disk.map(|disk| disk.0),
            disk_limits: self.disk_limits.limits(),
            network,
            interception,
            timeout: self.timeout.map_or(Duration::from_secs(2 * 60 * 60), |time| time.0),
            mock_claude: self.mock_claude,
            host_ca: self.host_ca.unwrap_or(true),
            warm: self.warm,
        })
    }
}

impl Choice {
    /// The network, and the interception policy if it is intercepted.
    fn read(self, folder: &Path) -> Result<(Option<Network>, Option<InterceptionPolicy>)> {
        let network = match self {
            Self::Named(NetworkChoice::Open) => Some(Network::default()),
            Self::Named(NetworkChoice::None) => None,
            Self::Named(NetworkChoice::Policy(path)) => Some(network::read(&folder.join(path))?),
            Self::Named(NetworkChoice::Intercept(path)) => {
                let policy = match path {
                    Some(path) => InterceptionPolicy::read(&folder.join(path))?,
                    None => InterceptionPolicy::open(),
                };
                let network = Network { policy: policy.packets(), ..Network::default() };
                return Ok((Some(network), Some(policy)));
            }
            Self::Inline(network) => Some(network),
        };
        Ok((network, None))
    }
}

impl<'de> Deserialize<'de> for Disk {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        disk::size(&text).map(Self).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Choice {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        struct ChoiceVisitor;

        impl<'de> Visitor<'de> for ChoiceVisitor {
            type Value = Choice;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("open, none, policy=FILE, or a policy table")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Choice, E> {
                NetworkChoice::parse(text.as_bytes()).map(Choice::Named).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Choice, A::Error> {
                network::from_table(MapAccessDeserializer::new(map)).map(Choice::Inline)
            }
        }

        from.deserialize_any(ChoiceVisitor)
    }
}
