//! A launcher of scripted sandboxes and a clock that tests set.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base::sync::Mutex;
use sandbox::fake::{Factory, Script};
use sandbox::{
    Action, Cancellation, DiskLimits, Image, Network, Policy, Rule, SandboxConfig,
    SandboxFactory as _, SandboxId,
};

use crate::clock::Clock;
use crate::launcher::{
    LaunchError, LaunchRequest, Launched, Launcher, NetworkRequest, Reservation, Template,
};
use crate::sandboxes::{Sandboxes, Settings};

/// Launches scripted sandboxes.
#[derive(Default)]
pub(crate) struct FakeLauncher {
    pub(crate) factory: Factory,
    pub(crate) requests: Mutex<Vec<LaunchRequest>>,
    /// The ids of the VMs, in order.
    pub(crate) vms: Mutex<Vec<SandboxId>>,
    /// Whether there is no room: for launches, and for resumes.
    pub(crate) is_full: Arc<Mutex<bool>>,
}

impl FakeLauncher {
    pub(crate) fn new(script: Script) -> Arc<Self> {
        Arc::new(Self { factory: script.factory(), ..Self::default() })
    }
}

impl Launcher for FakeLauncher {
    fn templates(&self) -> Vec<Template> {
        let base = Template {
            name: "default".to_owned(),
            aliases: vec!["base".to_owned()],
            vcpus: 2,
            memory_mib: 512,
            disk_mib: 1024,
        };
        let other = Template { name: "other".to_owned(), aliases: Vec::new(), ..base.clone() };
        vec![base, other]
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
    let nowhere = std::path::PathBuf::from("/nowhere");
    SandboxConfig {
        id: SandboxId::random().unwrap(),
        name: Some(request.name.clone()),
        labels: request.labels.clone(),
        image: Image {
            kernel: nowhere.clone(),
            initramfs: nowhere.clone(),
            rootfs: nowhere.clone(),
            disk_template: nowhere,
        },
        vcpus: 2,
        memory_mib: 512,
        disk_limits: DiskLimits::default(),
        network: None,
        hostname: request.name.clone(),
        timezone: None,
        host_authorities: Vec::new(),
    }
}

/// A clock that stands still unless a test moves it.
pub(crate) struct ManualClock {
    start: (Instant, SystemTime),
    passed: Mutex<Duration>,
}

impl ManualClock {
    pub(crate) fn new() -> Arc<Self> {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        Arc::new(Self { start: (Instant::now(), wall), passed: Mutex::default() })
    }

    pub(crate) fn advance(&self, duration: Duration) {
        *self.passed.lock() += duration;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start.0 + *self.passed.lock()
    }

    fn wall(&self) -> SystemTime {
        self.start.1 + *self.passed.lock()
    }
}

/// A registry with a launcher of scripted sandboxes, and a clock of its own.
pub(crate) fn registry(script: Script) -> (Arc<Sandboxes>, Arc<FakeLauncher>, Arc<ManualClock>) {
    let (launcher, clock) = (FakeLauncher::new(script), ManualClock::new());
    let sandboxes = Sandboxes::start(launcher.clone(), Settings::default(), clock.clone()).unwrap();
    (Arc::new(sandboxes), launcher, clock)
}
