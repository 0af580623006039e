//! Sandboxes for programs, in VMs of the pool. Jobs and sandboxes share one budget.
//!
//! | file | content |
//! |---|---|
//! | this file | starts of sandboxes |
//! | `template.rs` | what they are made from: profiles, and images |
//! | `reservation.rs` | a sandbox's part of the budget |

mod reservation;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use egress::restriction::Restriction;
use sandbox::{Cancellation, Network, Policy, SandboxConfig, SandboxFactory};
use sandbox_api::{
    Destination, LaunchError, LaunchRequest, Launched, Launcher, NetworkRequest, Template,
};

use self::reservation::Reservations;
pub use self::template::ImageNames;
use self::template::Templates;
use crate::admission::Admission;
use crate::cancellation::KillVm;
use crate::config::{Config, Profile};
use crate::error::{Error, Result};
use crate::execution;
use crate::job::Images;
use crate::pool::{Pool, PoolRequest};

/// The label with the name of a sandbox's template. The registry sets it.
const TEMPLATE: &str = "template";

/// The most rules of a network.
const MAX_RULES: usize = 4096;

/// Starts sandboxes in VMs of a pool.
pub struct PoolLauncher {
    templates: Templates,
    images: Arc<Images>,
    pool: Arc<Pool>,
    reservations: Arc<Reservations>,
}

impl PoolLauncher {
    /// One with a pool of its own, beside which there are no jobs.
    pub fn start(
        config: &Config,
        factory: Arc<dyn SandboxFactory>,
        kill_vm: KillVm,
        images: Arc<Images>,
        image_names: Box<ImageNames>,
    ) -> Result<Self> {
        let base_config = execution::base_config_with(Arc::clone(&images));
        let pool = Arc::new(Pool::start(config, factory, kill_vm, base_config, || {})?);
        let admission = Admission::new(config.budget, config.max_concurrent);
        Ok(Self::new(config, (pool, admission), images, image_names, Box::new(|| {})))
    }

    /// One that shares its pool and its budget. It calls `changed` when it takes or returns resources.
    pub(crate) fn new(
        config: &Config,
        (pool, admission): (Arc<Pool>, Admission),
        images: Arc<Images>,
        image_names: Box<ImageNames>,
        changed: Box<dyn Fn() + Send + Sync>,
    ) -> Self {
        let templates = Templates::new(config, Arc::clone(&images), image_names);
        let reservations = Reservations::new(admission, config.sandboxes.max, changed);
        Self { templates, images, pool, reservations: Arc::new(reservations) }
    }

    fn config(
        &self,
        profile: &Profile,
        request: &LaunchRequest,
    ) -> std::result::Result<SandboxConfig, LaunchError> {
        let network = network(profile, &request.network)?;
        let image = (self.images)(profile).map_err(LaunchError::Failed)?;
        let mut config = execution::base_config(profile, image).map_err(failed)?;
        config.labels.extend(request.labels.clone());
        Ok(SandboxConfig {
            name: Some(request.name.clone()),
            network: Some(network),
            hostname: request.name.clone(),
            timezone: request.timezone.clone(),
            ..config
        })
    }
}

impl Launcher for PoolLauncher {
    fn templates(&self) -> Vec<Template> {
        self.templates.list()
    }

    fn launch(
        &self,
        request: &LaunchRequest,
        cancellation: &Cancellation,
    ) -> std::result::Result<Launched, LaunchError> {
        if !self.pool.is_open() {
            return Err(LaunchError::Stopping);
        }
        let unknown = || LaunchError::UnknownTemplate { name: request.template.clone() };
        let profile = self.templates.profile(&request.template).ok_or_else(unknown)?;
        let config = self.config(&profile, request)?;
        let reservation = self.reservations.take(profile.resources)?;
        self.pool.evict_for(self.reservations.free_memory_mib(), None);
        let claim = PoolRequest {
            profile: &profile.name,
            key: None,
            config: &config,
            cancellation,
            set_vm: &|_| Ok(()),
        };
        let failed = |error| {
            if cancellation.is_cancelled() { LaunchError::Stopping } else { failed(error) }
        };
        let pooled = self.pool.claim(&claim).map_err(failed)?;
        Ok(Launched { sandbox: pooled.sandbox, config, reservation: Box::new(reservation) })
    }

    fn network(
        &self,
        config: &SandboxConfig,
        request: &NetworkRequest,
    ) -> std::result::Result<Network, LaunchError> {
        let name = config.labels.get(TEMPLATE).map(String::as_str).unwrap_or_default();
        let unknown = || LaunchError::UnknownTemplate { name: name.to_owned() };
        network(&self.templates.profile(name).ok_or_else(unknown)?, request)
    }
}

/// The profile's network, restricted by the request.
fn network(
    profile: &Profile,
    request: &NetworkRequest,
) -> std::result::Result<Network, LaunchError> {
    let unsupported = |what: String| LaunchError::Unsupported { what };
    let open = Some(&egress::InterceptionPolicy::open());
    let mut network = match (&profile.network, profile.interception.as_ref()) {
        (None, _) => Network { policy: Policy::none(), ..Network::default() },
        (Some(network), None) => network.clone(),
        // Sandboxes are not intercepted, and an open policy has nothing to enforce.
        (Some(network), policy) if policy == open => {
            Network { policy: Policy::open(), ..network.clone() }
        }
        _ => {
            let name = &profile.name;
            let what = format!("sandboxes of `{name}`, whose network is intercepted by a policy");
            return Err(unsupported(what));
        }
    };
    let (mut allow, mut allow_hosts) = (Vec::new(), Vec::new());
    for destination in &request.allow_out {
        match destination {
            Destination::Net(net) => allow.push(*net),
            Destination::Host(name) => allow_hosts.push(name.clone()),
        }
    }
    if let Some(host) = allow_hosts.first()
        && !network.policy.dns
    {
        return Err(unsupported(format!(
            "host names in `allowOut`, such as `{host}`, for sandboxes of `{}`, whose network resolves no names",
            profile.name
        )));
    }
    let restriction = Restriction {
        allow: &allow,
        allow_hosts: &allow_hosts,
        deny: &request.deny_out,
        allow_others: request.allow_internet,
    };
    network.policy = restriction.within(&network.policy);
    if network.policy.rules.len() > MAX_RULES {
        return Err(unsupported(format!("networks of more than {MAX_RULES} rules")));
    }
    Ok(network)
}

fn failed(error: Error) -> LaunchError {
    LaunchError::Failed(error.into())
}
