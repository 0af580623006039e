//! The pool with scripted sandboxes: no root, no VM.

use std::path::PathBuf;

use crossbeam_channel::Receiver;
use sandbox::Cancellation;
use sandbox::fake::{Factory, Script};

use super::*;

/// A pool, and who hears of its sessions.
struct Bench {
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

fn blank(profile: &Profile) -> SandboxConfig {
    SandboxConfig {
        id: SandboxId::random().unwrap(),
        name: None,
        labels: BTreeMap::new(),
        image: image("new"),
        vcpus: profile.amount.vcpus,
        memory_mib: profile.amount.memory_mib,
        disk_limits: profile.disk_limits,
        network: None,
        hostname: "vm".into(),
        timezone: None,
        host_authorities: Vec::new(),
    }
}

impl Bench {
    fn new(warm: u32, parked: usize, script: Script) -> Self {
        let mut config = Config::standard().unwrap();
        config.parked = parked;
        let profile = config.profiles.get_mut("default").unwrap();
        profile.warm = warm;
        profile.amount.memory_mib = 1024;
        let profile = profile.clone();
        let factory = Arc::new(script.factory());
        let (tell, changed) = unbounded();
        let plug = {
            let factory = Arc::clone(&factory);
            Arc::new(move |vm| factory.unplug(vm))
        };
        let sandboxes = Arc::clone(&factory) as Arc<dyn SandboxFactory>;
        let blank = Arc::new(|profile: &Profile| Ok(blank(profile)));
        let told = move || {
            let _ = tell.send(());
        };
        let pool = Pool::start(&config, sandboxes, plug, blank, told).unwrap();
        Self { factory, pool, profile, changed }
    }

    fn claim(&self, key: Option<&str>) -> Taken {
        self.claim_for("default", key, "new").unwrap()
    }

    fn claim_for(&self, profile: &str, key: Option<&str>, image_name: &str) -> Result<Taken> {
        let config = SandboxConfig {
            name: Some("job".into()),
            image: image(image_name),
            ..blank(&self.profile)
        };
        let cancellation = &Cancellation::new();
        self.pool.claim(&Wish { profile, key, config: &config, cancellation, hold: &|_| Ok(()) })
    }

    /// Parks a VM, and returns when that is known; returns which it was.
    fn park(&self, taken: Taken) -> SandboxId {
        let taken = Taken { session: taken.key.clone(), ..taken };
        let id = taken.sandbox.id();
        self.pool.park(taken, &self.profile).unwrap();
        self.changed.recv().unwrap();
        id
    }

    /// Waits until there are so many warm ones.
    fn wait_for_warm(&self, count: usize) {
        while self.factory.record().prepared < count {
            std::thread::yield_now();
        }
        // The one that makes them has put the last one in when it is idle.
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
fn a_warm_vm_becomes_the_jobs_and_another_takes_its_place() {
    let bench = Bench::new(2, 0, Script::default());
    bench.wait_for_warm(2);
    let taken = bench.claim(None);
    assert_eq!(taken.reuse, None);
    assert_eq!(bench.factory.record().assigned, [(taken.sandbox.id(), Some("job".into()))]);
    bench.wait_for_warm(3);
    assert_eq!(bench.factory.record().started, 0);
}

#[test]
fn a_vm_of_an_image_that_was_replaced_is_no_jobs() {
    let bench = Bench::new(1, 0, Script::default());
    bench.wait_for_warm(1);
    let taken = bench.claim_for("default", None, "newer").unwrap();
    assert!(bench.factory.record().assigned.is_empty());
    assert_eq!(bench.factory.record().started, 1);
    bench.wait_for_ends(1);
    drop(taken);
}

#[test]
fn a_session_gets_its_own_vm_again_and_nobody_elses() {
    let bench = Bench::new(0, 4, Script::default());
    let first = bench.claim(Some("a"));
    assert_eq!(first.reuse, Some(Reuse::PoolMiss));
    let id = bench.park(first);
    assert_eq!(bench.factory.record().parked, [id]);
    assert_eq!(bench.pool.held().len(), 1);

    let other = bench.claim(Some("b"));
    assert_eq!((other.reuse, other.sandbox.id() == id), (Some(Reuse::PoolMiss), false));
    let nobody = bench.claim(None);
    assert_eq!(nobody.reuse, Some(Reuse::NoReuseKey));
    assert!(!bench.pool.wants(&nobody));
    let again = bench.claim(Some("a"));
    assert_eq!((again.reuse, again.sandbox.id()), (Some(Reuse::Reused), id));
    assert!(bench.pool.held().is_empty());
}

#[test]
fn a_vm_of_another_profile_or_image_is_not_gone_on_with() {
    let bench = Bench::new(0, 4, Script::default());
    bench.park(bench.claim(Some("a")));
    let taken = bench.claim_for("large", Some("a"), "new").unwrap();
    assert_eq!(taken.reuse, Some(Reuse::ProfileMismatch));
    bench.wait_for_ends(1);
    bench.park(bench.claim(Some("b")));
    let taken = bench.claim_for("default", Some("b"), "newer").unwrap();
    assert_eq!(taken.reuse, Some(Reuse::ProfileMismatch));
}

#[test]
fn one_that_does_not_wake_up_is_replaced() {
    let bench = Bench::new(0, 4, Script::default().stubborn());
    let id = bench.park(bench.claim(Some("a")));
    let taken = bench.claim(Some("a"));
    assert_eq!(taken.reuse, Some(Reuse::UnparkFailed));
    assert_ne!(taken.sandbox.id(), id);
    bench.wait_for_ends(1);
}

#[test]
fn whoever_is_parked_longest_makes_room() {
    let bench = Bench::new(0, 2, Script::default());
    for key in ["a", "b", "c"] {
        bench.park(bench.claim(Some(key)));
    }
    // Only two may be parked.
    bench.wait_for_ends(1);
    assert_eq!(bench.claim(Some("a")).reuse, Some(Reuse::PoolMiss));
    bench.wait_for_ends(2);
    // Of the two, one has room; that which is about to be claimed is not counted.
    bench.pool.make_room(1024, None);
    bench.pool.make_room(1023, Some("c"));
    bench.wait_for_ends(3);
    assert_eq!(bench.claim(Some("c")).reuse, Some(Reuse::Reused));
}

#[test]
fn short_memory_takes_the_oldest() {
    let bench = Bench::new(0, 2, Script::default());
    bench.park(bench.claim(Some("a")));
    bench.park(bench.claim(Some("b")));
    bench.pool.shared.requests.send(Request::Pressure).unwrap();
    bench.changed.recv().unwrap();
    assert_eq!(bench.claim(Some("b")).reuse, Some(Reuse::Reused));
    assert_eq!(bench.claim(Some("a")).reuse, Some(Reuse::PoolMiss));
}

#[test]
fn one_that_is_too_old_or_ended_is_seen() {
    let bench = Bench::new(0, 4, Script::default());
    let id = bench.park(bench.claim(Some("a")));
    bench.factory.end(id);
    bench.changed.recv().unwrap();
    bench.park(bench.claim(Some("b")));
    let mut stock = bench.pool.shared.lock();
    assert!(stock.take_useless(Instant::now()).is_empty());
    let later = Instant::now() + Duration::from_secs(601);
    assert_eq!(stock.take_useless(later).len(), 1);
}

#[test]
fn whoever_fails_again_and_again_tries_less_and_less_often() {
    let bench = Bench::new(0, 0, Script::default());
    let mut stock = bench.pool.shared.lock();
    let now = Instant::now();
    stock.booted("default");
    for seconds in [10, 20, 40] {
        assert!(stock.failed(now));
        assert_eq!(stock.next_alarm(now), Some(now + Duration::from_secs(seconds)));
        assert_eq!(stock.order(now), None);
    }
    assert!(stock.order(now + Duration::from_secs(40)).is_some());
    stock.succeeded();
    stock.failed(now);
    assert_eq!(stock.next_alarm(now), Some(now + Duration::from_secs(10)));
}

#[test]
fn nothing_is_left_of_a_pool_that_is_closed() {
    let bench = Bench::new(2, 2, Script::default());
    bench.wait_for_warm(2);
    let taken = bench.claim(Some("a"));
    bench.park(taken);
    let running = bench.claim(None);
    bench.pool.close();
    assert!(!bench.pool.wants(&running));
    drop(running);
    let Bench { factory, pool, .. } = bench;
    drop(pool);
    let record = factory.record();
    assert_eq!(record.started + record.prepared, record.ended);
}
