//! The pool with scripted sandboxes: no root, no VM.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crossbeam_channel::Receiver;
use sandbox::Cancellation;
use sandbox::fake::{Factory, Script};

use super::*;

/// A pool, and the channel that is notified of changed sessions.
struct Fixture {
    factory: Arc<Factory>,
    pool: Pool,
    profile: Profile,
    changed: Receiver<()>,
}

fn image(name: &str) -> Image {
    let path = PathBuf::from(name);
    Image {
        kernel: path.clone(),
        initramfs: path.clone(),
        rootfs: path.clone(),
        disk_template: path,
    }
}

fn base_config(profile: &Profile) -> SandboxConfig {
    SandboxConfig {
        id: SandboxId::random().unwrap(),
        name: None,
        labels: BTreeMap::new(),
        image: image("new"),
        vcpus: profile.resources.vcpus,
        memory_mib: profile.resources.memory_mib,
        disk_limits: profile.disk_limits,
        network: None,
        hostname: "vm".into(),
        timezone: None,
        host_authorities: Vec::new(),
    }
}

impl Fixture {
    fn new(warm: u32, parked: usize, script: Script) -> Self {
        let mut config = Config::default_for_host().unwrap();
        config.parked = parked;
        let profile = config.profiles.get_mut("default").unwrap();
        profile.warm = warm;
        profile.resources.memory_mib = 1024;
        let profile = profile.clone();
        let factory = Arc::new(script.factory());
        let (changed_tx, changed) = unbounded();
        let kill_vm = {
            let factory = Arc::clone(&factory);
            Arc::new(move |vm| factory.unplug(vm))
        };
        let sandboxes = Arc::clone(&factory) as Arc<dyn SandboxFactory>;
        let base_config = Arc::new(|profile: &Profile| Ok(base_config(profile)));
        let notify = move || {
            let _ = changed_tx.send(());
        };
        let pool = Pool::start(&config, sandboxes, kill_vm, base_config, notify).unwrap();
        Self { factory, pool, profile, changed }
    }

    fn claim(&self, key: Option<&str>) -> PooledVm {
        self.claim_for("default", key, "new").unwrap()
    }

    fn claim_for(&self, profile: &str, key: Option<&str>, image_name: &str) -> Result<PooledVm> {
        let config = SandboxConfig {
            name: Some("job".into()),
            image: image(image_name),
            ..base_config(&self.profile)
        };
        let cancellation = &Cancellation::new();
        self.pool.claim(&PoolRequest {
            profile,
            key,
            config: &config,
            cancellation,
            set_vm: &|_| Ok(()),
        })
    }

    /// Parks a VM, waits for the notification, and returns the VM's ID.
    fn park(&self, pooled: PooledVm) -> SandboxId {
        let pooled = PooledVm { session: pooled.key.clone(), ..pooled };
        let id = pooled.sandbox.id();
        self.pool.park(pooled, &self.profile).unwrap();
        self.changed.recv().unwrap();
        id
    }

    /// Waits until `count` warm VMs were started.
    fn wait_for_warm(&self, count: usize) {
        while self.factory.record().prepared < count {
            std::thread::yield_now();
        }
        // The replenisher adds the VM to the pool after it was started.
        while self.pool.shared.lock().is_missing("default") {
            std::thread::yield_now();
        }
    }

    fn wait_for_ends(&self, count: usize) {
        while self.factory.record().ended < count {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_claimed_warm_vm_is_assigned_and_replaced_by_another() {
    let fixture = Fixture::new(2, 0, Script::default());
    fixture.wait_for_warm(2);
    let pooled = fixture.claim(None);
    assert_eq!(pooled.reuse, None);
    assert_eq!(fixture.factory.record().assigned, [(pooled.sandbox.id(), Some("job".into()))]);
    fixture.wait_for_warm(3);
    assert_eq!(fixture.factory.record().started, 0);
}

#[test]
fn a_warm_vm_of_a_replaced_image_is_killed() {
    let fixture = Fixture::new(1, 0, Script::default());
    fixture.wait_for_warm(1);
    let pooled = fixture.claim_for("default", None, "newer").unwrap();
    assert!(fixture.factory.record().assigned.is_empty());
    assert_eq!(fixture.factory.record().started, 1);
    fixture.wait_for_ends(1);
    drop(pooled);
}

#[test]
fn a_parked_vm_is_reused_only_by_its_session() {
    let fixture = Fixture::new(0, 4, Script::default());
    let first = fixture.claim(Some("a"));
    assert_eq!(first.reuse, Some(SandboxReuse::PoolMiss));
    let id = fixture.park(first);
    assert_eq!(fixture.factory.record().parked, [id]);
    assert_eq!(fixture.pool.sessions().len(), 1);

    let other = fixture.claim(Some("b"));
    assert_eq!((other.reuse, other.sandbox.id() == id), (Some(SandboxReuse::PoolMiss), false));
    let without_session = fixture.claim(None);
    assert_eq!(without_session.reuse, Some(SandboxReuse::NoReuseKey));
    assert!(!fixture.pool.can_park(&without_session));
    let again = fixture.claim(Some("a"));
    assert_eq!((again.reuse, again.sandbox.id()), (Some(SandboxReuse::Reused), id));
    assert!(fixture.pool.sessions().is_empty());
}

#[test]
fn a_parked_vm_of_another_profile_or_image_is_not_reused() {
    let fixture = Fixture::new(0, 4, Script::default());
    fixture.park(fixture.claim(Some("a")));
    let pooled = fixture.claim_for("large", Some("a"), "new").unwrap();
    assert_eq!(pooled.reuse, Some(SandboxReuse::ProfileMismatch));
    fixture.wait_for_ends(1);
    fixture.park(fixture.claim(Some("b")));
    let pooled = fixture.claim_for("default", Some("b"), "newer").unwrap();
    assert_eq!(pooled.reuse, Some(SandboxReuse::ProfileMismatch));
}

#[test]
fn a_parked_vm_that_cannot_be_resumed_is_replaced() {
    let fixture = Fixture::new(0, 4, Script::default().stubborn());
    let id = fixture.park(fixture.claim(Some("a")));
    let pooled = fixture.claim(Some("a"));
    assert_eq!(pooled.reuse, Some(SandboxReuse::UnparkFailed));
    assert_ne!(pooled.sandbox.id(), id);
    fixture.wait_for_ends(1);
}

#[test]
fn the_oldest_parked_vms_are_evicted_first() {
    let fixture = Fixture::new(0, 2, Script::default());
    for key in ["a", "b", "c"] {
        fixture.park(fixture.claim(Some(key)));
    }
    // Only two may be parked.
    fixture.wait_for_ends(1);
    assert_eq!(fixture.claim(Some("a")).reuse, Some(SandboxReuse::PoolMiss));
    fixture.wait_for_ends(2);
    // One of the two fits. The VM that is about to be claimed is not counted.
    fixture.pool.evict_for(1024, None);
    fixture.pool.evict_for(1023, Some("c"));
    fixture.wait_for_ends(3);
    assert_eq!(fixture.claim(Some("c")).reuse, Some(SandboxReuse::Reused));
}

#[test]
fn memory_pressure_evicts_the_oldest_parked_vm() {
    let fixture = Fixture::new(0, 2, Script::default());
    fixture.park(fixture.claim(Some("a")));
    fixture.park(fixture.claim(Some("b")));
    fixture.pool.shared.commands.send(ReaperCommand::EvictOldest).unwrap();
    fixture.changed.recv().unwrap();
    assert_eq!(fixture.claim(Some("b")).reuse, Some(SandboxReuse::Reused));
    assert_eq!(fixture.claim(Some("a")).reuse, Some(SandboxReuse::PoolMiss));
}

#[test]
fn parked_vms_that_expire_or_end_are_removed() {
    let fixture = Fixture::new(0, 4, Script::default());
    let id = fixture.park(fixture.claim(Some("a")));
    fixture.factory.end(id);
    fixture.changed.recv().unwrap();
    fixture.park(fixture.claim(Some("b")));
    let mut state = fixture.pool.shared.lock();
    assert!(state.take_expired(Instant::now()).is_empty());
    let later = Instant::now() + Duration::from_secs(601);
    assert_eq!(state.take_expired(later).len(), 1);
}

#[test]
fn a_replacement_starts_only_some_time_after_a_warm_vm_was_taken() {
    let fixture = Fixture::new(1, 0, Script::default());
    fixture.wait_for_warm(1);
    let mut state = fixture.pool.shared.lock();
    state.succeeded();
    let now = Instant::now();
    let taken = state.take_warm("default", &image("new"), now);
    assert!(taken.found.is_some());
    assert_eq!(state.next_profile(now), None);
    let later = state.next_deadline(now).unwrap();
    assert!(state.next_profile(later).is_some());
}

#[test]
fn the_pause_after_failed_starts_doubles() {
    let fixture = Fixture::new(0, 0, Script::default());
    let mut state = fixture.pool.shared.lock();
    let now = Instant::now();
    state.note_boot("default");
    for seconds in [10, 20, 40] {
        assert!(state.failed(now));
        assert_eq!(state.next_deadline(now), Some(now + Duration::from_secs(seconds)));
        assert_eq!(state.next_profile(now), None);
    }
    assert!(state.next_profile(now + Duration::from_secs(40)).is_some());
    state.succeeded();
    state.failed(now);
    assert_eq!(state.next_deadline(now), Some(now + Duration::from_secs(10)));
}

#[test]
fn closing_the_pool_kills_all_its_vms() {
    let fixture = Fixture::new(2, 2, Script::default());
    fixture.wait_for_warm(2);
    let pooled = fixture.claim(Some("a"));
    fixture.park(pooled);
    let running = fixture.claim(None);
    fixture.pool.close();
    assert!(!fixture.pool.can_park(&running));
    drop(running);
    let Fixture { factory, pool, .. } = fixture;
    drop(pool);
    let record = factory.record();
    assert_eq!(record.started + record.prepared, record.ended);
}
