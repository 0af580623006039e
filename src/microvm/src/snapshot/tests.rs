//! The store of snapshots, without VMs.

use std::collections::BTreeMap;

use sandbox::{DiskLimits, Image, SandboxId};
use tempfile::TempDir;

use super::*;
use crate::Error;
use crate::vmm::{Launch, Launched, SnapshotIdentity};

/// A monitor with snapshots, as far as the store needs it.
struct Saving;

impl Vmm for Saving {
    fn kind(&self) -> &'static str {
        "saving"
    }

    fn launch(&self, _launch: &Launch<'_>) -> Result<Launched> {
        Err(Error::NotConnected)
    }

    fn overhead_mib(&self) -> u32 {
        0
    }

    fn snapshot_identity(&self) -> Option<SnapshotIdentity> {
        Some(SnapshotIdentity { text: "1".into(), files: Vec::new() })
    }
}

struct Scene {
    folder: TempDir,
    store: Store,
    config: SandboxConfig,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let config = SandboxConfig {
            id: SandboxId::random().unwrap(),
            name: None,
            labels: BTreeMap::new(),
            image: Image {
                kernel: file("kernel"),
                initramfs: file("initramfs"),
                rootfs: file("rootfs"),
                disk_template: file("template"),
            },
            vcpus: 1,
            memory_mib: 256,
            disk_limits: DiskLimits::default(),
            network: None,
            hostname: "box".into(),
            timezone: None,
            host_authorities: Vec::new(),
        };
        Self { store: Store::new(folder.path()), folder, config }
    }

    /// Saves a VM whose files have this content.
    fn save(&self, content: &str) {
        for name in [crate::SNAPSHOT_STATE, crate::SNAPSHOT_MEMORY, "disk"] {
            fs::write(self.folder.path().join(name), content).unwrap();
        }
        let _lock = self.store.lock().unwrap();
        let key = Key::of(&Saving, &self.config).unwrap();
        self.store.publish(&key, self.folder.path()).unwrap();
    }

    fn find(&self) -> Option<Snapshot> {
        self.store.find(&Saving, &self.config)
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(self.folder.path().join("snapshots")).unwrap().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

#[test]
fn a_snapshot_is_found_only_by_vms_of_the_same_kind() {
    let mut scene = Scene::new();
    assert!(scene.find().is_none());
    scene.save("one");
    assert_eq!(fs::read_to_string(scene.find().unwrap().disk()).unwrap(), "one");
    scene.config.memory_mib = 512;
    assert!(scene.find().is_none());
    scene.config.memory_mib = 256;
    scene.config.disk_limits.operations_per_second = Some(100);
    assert!(scene.find().is_none());
    scene.config.disk_limits = DiskLimits::default();
    assert!(scene.find().is_some());
    scene.config.network = Some(sandbox::Network::default());
    assert!(scene.find().is_none());
}

#[test]
fn a_snapshot_in_use_stays_complete_when_another_replaces_it() {
    let scene = Scene::new();
    scene.save("old");
    let found = scene.find().unwrap();
    let old = File::open(found.disk()).unwrap();
    scene.save("new");
    assert_eq!(io::read_to_string(old).unwrap(), "old");
    // Its folder is gone, and is not the new snapshot's.
    assert!(File::open(found.disk()).is_err());
    scene.store.quarantine(&found, "a test");
    assert_eq!(fs::read_to_string(scene.find().unwrap().disk()).unwrap(), "new");
}

#[test]
fn a_snapshot_that_lost_a_byte_or_its_marker_is_quarantined() {
    let scene = Scene::new();
    for damage in [
        |folder: &Path| fs::remove_file(folder.join(MARKER)).unwrap(),
        |folder: &Path| {
            fs::remove_file(folder.join("memory")).unwrap();
            fs::write(folder.join("memory"), "12").unwrap();
        },
    ] {
        scene.save("123");
        damage(&scene.find().unwrap().folder);
        assert!(scene.find().is_none());
        assert_eq!(scene.names().iter().filter(|name| name.starts_with(".quarantine-")).count(), 1);
    }
}

#[test]
fn a_stale_snapshot_is_swept() {
    let scene = Scene::new();
    scene.save("123");
    assert_eq!(scene.store.sweep().unwrap(), Vec::<String>::new());
    fs::create_dir(scene.folder.path().join("snapshots/.partial-1")).unwrap();
    fs::remove_file(&scene.config.image.kernel).unwrap();
    assert_eq!(scene.store.sweep().unwrap().len(), 2);
    assert_eq!(scene.names(), [".lock".to_owned()].into());
}

impl Scene {
    /// Gives a file of the snapshot another byte in its middle.
    fn flip(&self, name: &str) {
        let folder = self.folder.path().join("snapshots");
        let key = Key::of(&Saving, &self.config).unwrap();
        let path = folder.join(key.name()).join(name);
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }

    fn quarantined(&self) -> usize {
        self.names().iter().filter(|name| name.starts_with(".quarantine-")).count()
    }
}

#[test]
fn a_snapshot_with_a_flipped_byte_is_quarantined_at_its_first_use() {
    let scene = Scene::new();
    for name in ["memory", "state", "disk"] {
        scene.save("123");
        scene.flip(name);
        assert!(scene.find().is_none(), "{name}");
        assert_eq!(scene.quarantined(), 1);
    }
    scene.save("123");
    assert!(scene.find().is_some());
}

#[test]
fn a_verified_snapshot_is_not_read_again_until_the_host_reboots() {
    let scene = Scene::new();
    scene.save("123");
    let found = scene.find().unwrap();
    scene.flip("memory");
    // By another process.
    let other = Store::new(scene.folder.path());
    assert!(other.find(&Saving, &scene.config).is_some());
    fs::write(found.file("verified"), "the id of a boot before\n").unwrap();
    assert!(scene.find().is_none());
    assert_eq!(scene.quarantined(), 1);
}

#[test]
fn a_snapshot_of_an_older_format_is_swept() {
    let scene = Scene::new();
    scene.save("123");
    let found = scene.find().unwrap();
    let marker = found.file(MARKER);
    let text = fs::read_to_string(&marker).unwrap().replace("digests", "other");
    fs::write(&marker, text).unwrap();
    assert_eq!(scene.store.sweep().unwrap().len(), 1);
}

#[test]
fn a_snapshot_is_kept_until_two_restores_in_a_row_time_out() {
    let scene = Scene::new();
    scene.save("123");
    let (first, beside) = (scene.find().unwrap(), scene.find().unwrap());
    assert!(!first.record_restore_timeout());
    assert!(!beside.record_restore_timeout(), "it is concurrent, not the next one");
    scene.find().unwrap().record_restore_ok();
    assert!(!scene.find().unwrap().record_restore_timeout());
    assert!(scene.find().unwrap().record_restore_timeout());
}
