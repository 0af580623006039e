//! Folders that jobs are given, and what comes back of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Guest, Host, stderr};

/// A job that was given a folder with a file `old`, at `/w`.
fn given<'a>(host: &'a Host, folder: &Path) -> Guest<'a> {
    fs::write(folder.join("old"), "old").unwrap();
    host.submit(&["--artifact", &format!("app={}:/w", folder.display())]);
    host.take()
}

/// Leaves this archive as the job's artifact.
fn leave(guest: &Guest<'_>, archive: &[u8]) {
    let mount: Value = guest.mounts()[0].clone();
    let version = guest.upload(&mount, archive);
    guest.checkpoint(&[(&mount, &version)]);
    guest.complete(0, None);
}

/// A member with any name; `link` is what a link holds.
fn add(archive: &mut tar::Builder<Vec<u8>>, name: &str, link: Option<&str>, data: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_mode(0o644);
    header.set_size(data.len() as u64);
    header.set_entry_type(tar::EntryType::Regular);
    if let Some(link) = link {
        header.set_entry_type(tar::EntryType::Symlink);
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    archive.append(&header, data).unwrap();
}

fn out() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out").to_str().unwrap().to_owned();
    (dir, path)
}

#[test]
fn an_artifact_is_copied_with_modes_links_and_empty_folders() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("empty")).unwrap();
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/run.sh"), "#!/bin/sh\n").unwrap();
    symlink("/etc/passwd", at("link")).unwrap();
    for (name, mode) in [("empty", 0o700), ("sub", 0o550), ("sub/run.sh", 0o750)] {
        fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
    }
    let guest = given(&host, dir.path());
    let mount = guest.mounts()[0].clone();
    guest.checkpoint(&[(&mount, mount["versionId"].as_str().unwrap())]);
    let (_keep, out) = out();

    host.ok(&["job", "artifact", "get", &guest.run(), &out]);

    let back = |name: &str| Path::new(&out).join(name);
    let mode = |name: &str| fs::metadata(back(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!([mode("empty"), mode("sub"), mode("sub/run.sh")], [0o700, 0o550, 0o750]);
    assert_eq!(fs::read_link(back("link")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read_dir(back("empty")).unwrap().count(), 0);
    assert_eq!(fs::read(back("sub/run.sh")).unwrap(), b"#!/bin/sh\n");
    assert_eq!(fs::read(back("old")).unwrap(), b"old");
    // A test without root must be able to remove the folders.
    fs::set_permissions(back("sub"), Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(at("sub"), Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn an_artifact_has_the_changes_of_its_job() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    let guest = given(&host, dir.path());
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "deep/new", None, b"new");
    leave(&guest, &archive.into_inner().unwrap());
    let (_keep, out) = out();

    host.ok(&["job", "artifact", "get", &guest.run()[..8], &out]);

    assert_eq!(fs::read(Path::new(&out).join("deep/new")).unwrap(), b"new");
    assert!(!Path::new(&out).join("old").exists());
}

#[test]
fn a_malicious_archive_writes_nothing_outside_the_folder_and_leaves_nothing() {
    let hostile: [&[(&str, Option<&str>)]; 4] = [
        &[("../evil", None)],
        &[("a/../../evil", None)],
        &[("link", Some("..")), ("link/evil", None)],
        &[("link", Some("../..")), ("link", Some("..")), ("link/sub/evil", None)],
    ];
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    for members in hostile {
        let guest = given(&host, dir.path());
        let mut archive = tar::Builder::new(Vec::new());
        members.iter().for_each(|(name, link)| add(&mut archive, name, *link, b""));
        leave(&guest, &archive.into_inner().unwrap());
        let (keep, out) = out();

        let output = host.run(&["job", "artifact", "get", &guest.run(), &out]);

        assert_eq!(output.status.code(), Some(1), "{members:?}");
        let names: Vec<_> = fs::read_dir(keep.path()).unwrap().collect();
        assert_eq!(names.len(), 0, "{members:?}: {names:?}");
    }
}

#[test]
fn an_absolute_path_in_an_archive_is_rejected_with_a_reason() {
    let host = Host::start();
    let (dir, victim) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let evil = victim.path().join("evil");
    let guest = given(&host, dir.path());
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, evil.to_str().unwrap(), None, b"x");
    leave(&guest, &archive.into_inner().unwrap());
    let (_keep, out) = out();

    let output = host.run(&["job", "artifact", "get", &guest.run(), &out]);

    assert!(stderr(&output).contains("outside of the destination"), "{}", stderr(&output));
    assert!(!evil.exists());
}

#[test]
fn an_artifact_over_the_limit_is_rejected() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    let guest = given(&host, dir.path());
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "large", None, &[0; 5000]);
    leave(&guest, &archive.into_inner().unwrap());
    let (_keep, out) = out();

    let output = host.run(&["job", "artifact", "get", "--limit", "4K", &guest.run(), &out]);

    assert!(stderr(&output).contains("more than 4096 bytes"), "{}", stderr(&output));
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_folder_that_is_not_empty_needs_merge() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    let guest = given(&host, dir.path());
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "old", None, b"new");
    leave(&guest, &archive.into_inner().unwrap());
    fs::write(dir.path().join("mine"), "mine").unwrap();
    let folder = dir.path().to_str().unwrap();

    let refused = host.run(&["job", "artifact", "get", &guest.run(), folder]);
    assert!(stderr(&refused).contains("--merge"), "{}", stderr(&refused));
    assert_eq!(fs::read(dir.path().join("old")).unwrap(), b"old");

    host.ok(&["job", "artifact", "get", "--merge", &guest.run(), folder]);
    assert_eq!(fs::read(dir.path().join("old")).unwrap(), b"new");
    assert_eq!(fs::read(dir.path().join("mine")).unwrap(), b"mine");
}

#[test]
fn a_job_with_several_artifacts_requires_a_name() {
    let host = Host::start();
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a"), "a").unwrap();
    let one = format!("one={}:/one", dir.path().display());
    let two = format!("two={}:/two", dir.path().display());
    let run = host.submit(&["--artifact", &one, "--artifact", &two]);
    let guest = host.take();
    let mounts = guest.mounts().to_vec();
    let version = |mount: &Value| mount["versionId"].as_str().unwrap().to_owned();
    let versions = [version(&mounts[0]), version(&mounts[1])];
    guest.checkpoint(&[(&mounts[0], &versions[0]), (&mounts[1], &versions[1])]);
    let (_keep, out) = out();

    let refused = host.run(&["job", "artifact", "get", &run, &out]);
    assert!(stderr(&refused).contains("--name: one, two"), "{}", stderr(&refused));
    assert!(!Path::new(&out).exists());
    host.ok(&["job", "artifact", "get", "--name", "two", &run, &out]);
    assert_eq!(fs::read(Path::new(&out).join("a")).unwrap(), b"a");
}
