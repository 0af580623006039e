//! Sandboxes of scripted VMs: no root, no VM.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use sandbox::fake::{Factory, Script};
use sandbox::{Action, Image};

use super::*;
use crate::admission::Resources;

struct Fixture {
    launcher: PoolLauncher,
    factory: Arc<Factory>,
    admission: Admission,
    /// How often resources were taken or returned.
    changes: Arc<AtomicUsize>,
}

fn image(profile: &Profile) -> std::result::Result<Image, sandbox::Cause> {
    if profile.image == "missing" {
        return Err("there is no such image".into());
    }
    let path = PathBuf::from(&profile.image);
    let [initramfs, rootfs, disk_template] = [path.clone(), path.clone(), path.clone()];
    Ok(Image { kernel: path, initramfs, rootfs, disk_template })
}

impl Fixture {
    fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default_for_host().unwrap();
        let default = config.profiles.get_mut("default").unwrap();
        default.resources = Resources { vcpus: 1, memory_mib: 512 };
        let big = Profile {
            name: "big".into(),
            resources: Resources { vcpus: 2, memory_mib: 1024 },
            ..default.clone()
        };
        let lost = Profile { name: "lost".into(), image: "missing".into(), ..default.clone() };
        config.profiles.extend([("big".to_owned(), big), ("lost".to_owned(), lost)]);
        config.budget = Resources { vcpus: 2, memory_mib: 2048 };
        config.max_concurrent = 2;
        config.sandboxes.max = 3;
        change(&mut config);
        let factory = Arc::new(Script::default().factory());
        let kill_vm: KillVm = {
            let factory = Arc::clone(&factory);
            Arc::new(move |vm| factory.unplug(vm))
        };
        let images: Arc<Images> = Arc::new(image);
        let base_config = execution::base_config_with(Arc::clone(&images));
        let sandboxes = Arc::clone(&factory) as Arc<dyn SandboxFactory>;
        let pool = Pool::start(&config, sandboxes, kill_vm, base_config, || {}).unwrap();
        let admission = Admission::new(config.budget, config.max_concurrent);
        let changes = Arc::new(AtomicUsize::new(0));
        let changed = {
            let changes = Arc::clone(&changes);
            Box::new(move || {
                changes.fetch_add(1, Ordering::Relaxed);
            })
        };
        let names = Box::new(|| vec!["default".to_owned(), "python".to_owned()]);
        let resources = (Arc::new(pool), admission.clone());
        let launcher = PoolLauncher::new(&config, resources, images, names, changed);
        Self { launcher, factory, admission, changes }
    }

    fn launch(&self, template: &str) -> std::result::Result<Launched, LaunchError> {
        let request = LaunchRequest {
            template: template.to_owned(),
            name: "sandbox-1".to_owned(),
            labels: [("template".to_owned(), template.to_owned())].into(),
            ..LaunchRequest::default()
        };
        self.launcher.launch(&request, &Cancellation::new())
    }

    fn used(&self) -> (u32, u32) {
        let (resources, _) = self.admission.allocated();
        (resources.vcpus, resources.memory_mib)
    }
}

#[test]
fn templates_are_profiles_and_other_images_of_the_size_of_the_default_profile() {
    let fixture = Fixture::new(|_| {});
    let templates = fixture.launcher.templates();
    let shown = templates.iter().map(|one| (one.name.as_str(), one.vcpus, one.memory_mib));
    let expected = [("big", 2, 1024), ("default", 1, 512), ("python", 1, 512)];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
}

#[test]
fn a_sandbox_is_a_vm_of_its_template_with_its_name() {
    let launched = Fixture::new(|_| {}).launch("python").unwrap();
    let config = launched.config;
    assert_eq!(
        (config.name.as_deref(), config.hostname.as_str()),
        (Some("sandbox-1"), "sandbox-1")
    );
    assert_eq!((config.image.rootfs, config.memory_mib), ("python".into(), 512));
    assert_eq!(config.labels["template"], "python");
    // By default profiles are intercepted, with nothing denied.
    assert_eq!(config.network.unwrap().policy, Policy::open());
}

#[test]
fn a_paused_sandbox_keeps_its_memory_and_returns_its_vcpus() {
    let fixture = Fixture::new(|_| {});
    let mut first = fixture.launch("big").unwrap();
    assert_eq!(fixture.used(), (2, 1024));
    let error = fixture.launch("default").err().unwrap().to_string();
    assert!(error.contains("1 CPUs and 512 MiB, and 0 CPUs and 1024 MiB are free"), "{error}");

    first.reservation.pause();
    assert_eq!(fixture.used(), (0, 1024));
    let second = fixture.launch("default").unwrap();
    assert!(matches!(first.reservation.resume(), Err(LaunchError::NoRoom { .. })));
    drop(second);
    first.reservation.resume().unwrap();
    first.reservation.pause();
    drop(first);

    assert_eq!(fixture.used(), (0, 0));
    assert_eq!(fixture.changes.load(Ordering::Relaxed), 7);
    assert_eq!(fixture.factory.record().started, 2);
}

#[test]
fn paused_sandboxes_count_for_the_most_sandboxes() {
    let fixture = Fixture::new(|config| config.sandboxes.max = 1);
    let mut launched = fixture.launch("default").unwrap();
    launched.reservation.pause();
    let error = fixture.launch("default").err().unwrap().to_string();
    assert!(error.contains("1 sandboxes, its limit"), "{error}");
    drop(launched);
    fixture.launch("default").unwrap();
}

#[test]
fn a_failed_launch_takes_nothing() {
    let fixture = Fixture::new(|_| {});
    assert!(matches!(fixture.launch("lost"), Err(LaunchError::Failed(_))));
    fixture.launcher.pool.close();
    assert!(matches!(fixture.launch("default"), Err(LaunchError::Stopping)));
    assert_eq!(fixture.used(), (0, 0));
}

#[test]
fn a_request_restricts_the_network_of_its_profile() {
    let fixture = Fixture::new(|config| {
        let default = config.profiles.get_mut("default").unwrap();
        default.network = Some(Network { policy: Policy::none(), ..Network::default() });
        default.interception = None;
    });
    let config = fixture.launch("default").unwrap().config;
    let allow_out = vec![Destination::Net("1.1.1.1/32".parse().unwrap())];
    let request = NetworkRequest { allow_out, ..NetworkRequest::default() };

    let network = fixture.launcher.network(&config, &request).unwrap();

    assert!(network.policy.rules.iter().all(|rule| rule.action == Action::Deny));
    assert_eq!(network.policy.default, Action::Deny);
    let host = vec![Destination::Host("example.com".into())];
    let request = NetworkRequest { allow_out: host, ..NetworkRequest::default() };
    let error = fixture.launcher.network(&config, &request).unwrap_err().to_string();
    assert!(error.contains("`example.com`") && error.contains("resolves no names"), "{error}");
}

#[test]
fn host_names_are_decided_about_by_the_policy_of_the_profile() {
    let fixture = Fixture::new(|_| {});
    let config = fixture.launch("default").unwrap().config;
    let allow_out = vec![Destination::Host("example.com".into())];
    let request = NetworkRequest { allow_internet: false, allow_out, ..NetworkRequest::default() };

    let policy = fixture.launcher.network(&config, &request).unwrap().policy;

    let hosts = vec!["example.com".to_owned()];
    let only = Some(sandbox::Destinations { hosts, ..Default::default() });
    assert_eq!(policy, Policy { only, ..Policy::open() });
}

#[test]
fn a_profile_that_intercepts_by_a_policy_is_not_for_sandboxes() {
    let fixture = Fixture::new(|config| {
        let default = config.profiles.get_mut("default").unwrap();
        let policy = default.interception.as_mut().unwrap();
        policy.requests.deny.push("evil.example".to_owned());
    });
    let error = fixture.launch("default").err().unwrap().to_string();
    assert!(error.contains("`default`, whose network is intercepted"), "{error}");
}
