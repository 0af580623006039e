//! A store of snapshots, without any VM.

use std::collections::BTreeMap;

use sandbox::{DiskLimits, Image, SandboxId};
use tempfile::TempDir;

use super::*;
use crate::Error;
use crate::vmm::{Launch, Launched, SnapshotIdentity};

/// A monitor that can save, as far as a store asks.
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
fn what_was_saved_is_found_by_vms_of_its_kind_alone() {
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
fn a_snapshot_in_use_stays_whole_when_another_takes_its_place() {
    let scene = Scene::new();
    scene.save("old");
    let found = scene.find().unwrap();
    let old = File::open(found.disk()).unwrap();
    scene.save("new");
    assert_eq!(io::read_to_string(old).unwrap(), "old");
    // And its folder is gone, rather than being the new one's.
    assert!(File::open(found.disk()).is_err());
    scene.store.set_aside(&found, "a test");
    assert_eq!(fs::read_to_string(scene.find().unwrap().disk()).unwrap(), "new");
}

#[test]
fn one_that_lost_a_byte_or_its_marker_is_set_aside() {
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
        assert_eq!(scene.names().iter().filter(|name| name.starts_with(".aside-")).count(), 1);
    }
}

#[test]
fn what_nothing_can_use_any_more_is_swept() {
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

    fn aside(&self) -> usize {
        self.names().iter().filter(|name| name.starts_with(".aside-")).count()
    }
}

#[test]
fn one_with_a_flipped_byte_in_any_file_is_set_aside_at_its_first_use() {
    let scene = Scene::new();
    for name in ["memory", "state", "disk"] {
        scene.save("123");
        scene.flip(name);
        assert!(scene.find().is_none(), "{name}");
        assert_eq!(scene.aside(), 1);
    }
    scene.save("123");
    assert!(scene.find().is_some());
}

#[test]
fn one_that_was_verified_is_not_read_again_before_the_host_boots() {
    let scene = Scene::new();
    scene.save("123");
    let found = scene.find().unwrap();
    scene.flip("memory");
    // By another process.
    let other = Store::new(scene.folder.path());
    assert!(other.find(&Saving, &scene.config).is_some());
    fs::write(found.file("verified"), "the id of a boot before\n").unwrap();
    assert!(scene.find().is_none());
    assert_eq!(scene.aside(), 1);
}

#[test]
fn one_of_an_older_format_is_swept() {
    let scene = Scene::new();
    scene.save("123");
    let found = scene.find().unwrap();
    let marker = found.file(MARKER);
    let text = fs::read_to_string(&marker).unwrap().replace("digests", "other");
    fs::write(&marker, text).unwrap();
    assert_eq!(scene.store.sweep().unwrap().len(), 1);
}

#[test]
fn one_whose_guest_is_late_has_another_chance_until_it_is_late_again() {
    let scene = Scene::new();
    scene.save("123");
    let (first, beside) = (scene.find().unwrap(), scene.find().unwrap());
    assert!(!first.is_late_again());
    assert!(!beside.is_late_again(), "it is not the next one");
    scene.find().unwrap().acquit();
    assert!(!scene.find().unwrap().is_late_again());
    assert!(scene.find().unwrap().is_late_again());
}
