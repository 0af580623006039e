//! A launcher of scripted sandboxes, for tests.

use std::sync::Arc;
use std::time::Instant;

use base::sync::Mutex;
use sandbox::fake::{Factory, Script};
use sandbox::{
    Action, Cancellation, Network, Policy, Rule, SandboxConfig, SandboxFactory as _, SandboxId,
};

use crate::launcher::{
    LaunchError, LaunchRequest, Launched, Launcher, NetworkRequest, Reservation, Template,
};

/// Launches scripted sandboxes.
#[derive(Default)]
pub struct FakeLauncher {
    /// What happened to the sandboxes.
    pub factory: Factory,
    templates: Vec<Template>,
    /// The launches, in order.
    pub requests: Mutex<Vec<LaunchRequest>>,
    /// The ids of the VMs, in order.
    pub vms: Mutex<Vec<SandboxId>>,
    /// Whether there is no room: for launches, and for resumes.
    pub is_full: Arc<Mutex<bool>>,
}

impl FakeLauncher {
    /// The sandboxes do as `script` says. There are the templates `default`, also named `base`, and `other`.
    pub fn new(script: Script) -> Arc<Self> {
        let base = Template {
            name: "default".to_owned(),
            aliases: vec!["base".to_owned()],
            vcpus: 2,
            memory_mib: 512,
            disk_mib: 1024,
        };
        let other = Template { name: "other".to_owned(), aliases: Vec::new(), ..base.clone() };
        Self::with_templates(script, vec![base, other])
    }

    /// As [`FakeLauncher::new`], with other templates.
    pub fn with_templates(script: Script, templates: Vec<Template>) -> Arc<Self> {
        Arc::new(Self { factory: script.factory(), templates, ..Self::default() })
    }
}

impl Launcher for FakeLauncher {
    fn templates(&self) -> Vec<Template> {
        self.templates.clone()
    }

    fn launch(
        &self,
        request: &LaunchRequest,
        cancellation: &Cancellation,
    ) -> Result<Launched, LaunchError> {
        full(&self.is_full)?;
        self.requests.lock().push(request.clone());
        let config = config(request);
        self.vms.lock().push(config.id);
        let sandbox = self.factory.start(&config, cancellation, Instant::now());
        let sandbox = sandbox.map_err(|error| LaunchError::Failed(error.into()))?;
        let reservation = Box::new(Share(Arc::clone(&self.is_full)));
        Ok(Launched { sandbox, config, reservation })
    }

    fn network(
        &self,
        _config: &SandboxConfig,
        request: &NetworkRequest,
    ) -> Result<Network, LaunchError> {
        let deny = |to: &ipnet::Ipv4Net| Rule {
            action: Action::Deny,
            to: *to,
            protocol: None,
            ports: None,
        };
        let rules = request.deny_out.iter().map(deny).collect();
        Ok(Network { policy: Policy { rules, ..Policy::open() }, ..Network::default() })
    }
}

struct Share(Arc<Mutex<bool>>);

impl Reservation for Share {
    fn resume(&mut self) -> Result<(), LaunchError> {
        full(&self.0)
    }
}

fn full(is_full: &Mutex<bool>) -> Result<(), LaunchError> {
    if *is_full.lock() {
        return Err(LaunchError::NoRoom { reason: "all CPUs are taken".to_owned() });
    }
    Ok(())
}

pub(crate) fn config(request: &LaunchRequest) -> SandboxConfig {
    SandboxConfig {
        name: Some(request.name.clone()),
        labels: request.labels.clone(),
        hostname: request.name.clone(),
        vcpus: 2,
        memory_mib: 512,
        ..sandbox::fake::config()
    }
}
