//! Whole builds with the host's tools, and sources made by the tools that make them
//! in earnest.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rootfs::{BuildRequest, Image, Progress, Source, Step, Store};

/// A state directory and the programs for its images, in one temporary folder.
struct Host {
    dir: tempfile::TempDir,
    store: Store,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let programs = dir.path().join("programs");
        fs::create_dir(&programs).unwrap();
        fs::write(programs.join("guest-init"), static_program()).unwrap();
        fs::write(programs.join("guest-mock-claude"), static_program()).unwrap();
        let store = Store::open(&dir.path().join("state")).unwrap();
        Host { dir, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn request(&self, from: &str) -> BuildRequest {
        BuildRequest {
            name: "test".into(),
            source: Source::parse(from).unwrap(),
            guest_programs: self.path("programs"),
            tag: None,
            packages: Vec::new(),
            without_sudo: false,
            disk_mib: 1024,
            no_cache: false,
        }
    }

    /// Builds; returns the image and the steps that the cache had.
    fn build(&self, from: &str) -> (Image, Vec<Step>) {
        let mut cached = Vec::new();
        let image = rootfs::build(&self.store, &self.request(from), &mut |event| {
            if let Progress::Finished { step, cached: true, .. } = event {
                cached.push(step);
            }
        });
        (image.unwrap(), cached)
    }

    /// Unpacks the image's root file system.
    fn unpack(&self, image: &Image) -> PathBuf {
        let to = self.path("unpacked");
        let unsquashfs = |command: &mut Command| run(command.arg(&image.rootfs));
        unsquashfs(Command::new("unsquashfs").args(["-quiet", "-no-progress", "-d"]).arg(&to));
        to
    }
}

/// The start of an ELF program without a loader: enough for a build.
fn static_program() -> Vec<u8> {
    let machine = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut bytes = vec![0; 64];
    bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
    bytes[18] = machine;
    bytes
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
#[ignore = "needs apt and squashfs-tools"]
fn folder_becomes_an_image_with_our_account_and_programs() {
    let host = Host::new();
    let root = host.path("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(root.join("tool"), "x").unwrap();
    fs::set_permissions(root.join("tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    let long = "n".repeat(200);
    fs::write(root.join(&long), "long").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();

    let (image, _) = host.build(root.to_str().unwrap());

    let unpacked = host.unpack(&image);
    let passwd = fs::read_to_string(unpacked.join("etc/passwd")).unwrap();
    assert!(passwd.ends_with("user:x:1000:1000::/home/user:/bin/sh\n"));
    assert_eq!(mode(&unpacked.join("tool")), 0o4755);
    assert_eq!(mode(&unpacked.join("usr/local/bin/guest-mock-claude")), 0o755);
    assert_eq!(fs::read_link(unpacked.join("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_to_string(unpacked.join(&long)).unwrap(), "long");
    assert!(fs::read(&image.kernel).unwrap().starts_with(b"\x7fELF"));
    assert_eq!(host.store.get("test").unwrap(), image);
}

#[test]
#[ignore = "needs apt and squashfs-tools"]
fn a_second_build_uses_the_cache_and_makes_the_same_image() {
    let host = Host::new();
    fs::create_dir_all(host.path("root/etc")).unwrap();
    fs::write(host.path("root/etc/a"), "1").unwrap();
    let archive = host.path("root.tar.gz");
    run(Command::new("tar").arg("-C").arg(host.path("root")).arg("-czf").arg(&archive).arg("."));
    let (first, _) = host.build(archive.to_str().unwrap());

    let (second, cached) = host.build(archive.to_str().unwrap());

    assert_eq!(second.id, first.id);
    assert_eq!(cached, [Step::Kernel, Step::Disk, Step::Pack]);
    let staging = fs::read_dir(host.path("state/staging")).unwrap();
    assert_eq!(staging.count(), 0);
}

#[test]
#[ignore = "needs apt and squashfs-tools"]
fn same_source_at_another_time_gives_the_same_image_without_the_cache() {
    let host = Host::new();
    fs::create_dir(host.path("root")).unwrap();
    fs::write(host.path("root/a"), "1").unwrap();
    let root = host.path("root");
    let (first, _) = host.build(root.to_str().unwrap());

    let request = BuildRequest { no_cache: true, ..host.request(root.to_str().unwrap()) };
    let second = rootfs::build(&host.store, &request, &mut |_| ()).unwrap();

    // The disk has random identifiers; its size alone is part of the id.
    assert_eq!(second.id, first.id);
}

#[test]
#[ignore = "needs root and umoci"]
fn image_made_by_umoci_has_its_layers_and_configuration() {
    let host = Host::new();
    let layout = host.path("layout");
    let tagged = format!("{}:latest", layout.display());
    let umoci = |arguments: &[&str]| run(Command::new("umoci").args(arguments));
    umoci(&["init", "--layout", layout.to_str().unwrap()]);
    umoci(&["new", "--image", &tagged]);
    add_layer(&host, &tagged, "bundle-1", |root| {
        fs::create_dir_all(root.join("srv/old")).unwrap();
        fs::write(root.join("srv/old/file"), "1").unwrap();
        fs::write(root.join("srv/kept"), "2").unwrap();
        fs::write(root.join("gone"), "3").unwrap();
    });
    add_layer(&host, &tagged, "bundle-2", |root| {
        fs::remove_dir_all(root.join("srv/old")).unwrap();
        fs::remove_file(root.join("gone")).unwrap();
        fs::write(root.join("added"), "4").unwrap();
        std::os::unix::fs::chown(root.join("added"), Some(70_000), Some(7)).unwrap();
    });
    umoci(&["config", "--image", &tagged, "--config.env", "A=1", "--config.workingdir", "/srv"]);
    let archive = host.path("image.tar");
    run(Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&archive).arg("."));

    let (from_layout, _) = host.build(layout.to_str().unwrap());
    let (from_archive, cached) = host.build(archive.to_str().unwrap());

    assert_eq!(from_layout.description.defaults.workdir.as_deref(), Some("/srv"));
    assert!(from_layout.description.defaults.env.contains(&"A=1".to_owned()));
    assert_eq!(from_archive.id, from_layout.id);
    assert!(cached.contains(&Step::Pack));
    let unpacked = host.unpack(&from_archive);
    assert_eq!(fs::read_to_string(unpacked.join("srv/kept")).unwrap(), "2");
    let missing = |name: &str| unpacked.join(name).metadata().unwrap_err().kind();
    assert_eq!(missing("srv/old"), ErrorKind::NotFound);
    assert_eq!(missing("gone"), ErrorKind::NotFound);
    let added = fs::metadata(unpacked.join("added")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&added), 70_000);
}

/// Unpacks the image, changes it and packs the difference as a layer.
fn add_layer(host: &Host, tagged: &str, bundle: &str, change: impl FnOnce(&Path)) {
    let bundle = host.path(bundle);
    run(Command::new("umoci").args(["unpack", "--image", tagged]).arg(&bundle));
    change(&bundle.join("rootfs"));
    run(Command::new("umoci").args(["repack", "--image", tagged]).arg(&bundle));
}

#[test]
#[ignore = "needs root, mmdebstrap and a Debian mirror"]
fn debian_suite_becomes_an_image() {
    let host = Host::new();

    let (image, _) = host.build("debian:bookworm");

    let unpacked = host.unpack(&image);
    assert!(unpacked.join("usr/bin/git").is_file());
    let release = fs::read_to_string(unpacked.join("etc/os-release")).unwrap();
    assert!(release.contains("VERSION_CODENAME=bookworm"));
    let passwd = fs::read_to_string(unpacked.join("etc/passwd")).unwrap();
    assert!(passwd.contains("user:x:1000:1000::/home/user:/bin/bash\n"));
    assert!(!unpacked.join("dev/console").exists());
    assert_eq!(mode(&unpacked.join("usr/bin/sudo")), 0o4755);
    assert_eq!(mode(&unpacked.join("etc/sudoers.d/sandbox-user")), 0o440);
}

#[test]
#[ignore = "needs apt and squashfs-tools"]
fn sudo_can_be_left_out_of_debian_images_and_recipes_only() {
    let host = Host::new();
    fs::create_dir(host.path("root")).unwrap();
    let root = host.path("root");

    let request = BuildRequest { without_sudo: true, ..host.request(root.to_str().unwrap()) };
    let error = rootfs::build(&host.store, &request, &mut |_| ()).unwrap_err();

    assert!(error.to_string().starts_with("sudo can only be left out of debian:SUITE and recipes"));
}
