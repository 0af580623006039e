//! The file system after a run.

use std::fs;
use std::os::unix::fs::symlink;

use guest_test::archive::{Entry, tar, tar_gz, tar_zst};
use guest_test::{Reply, Server};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::harness::Fixture;

const TREE: [Entry<'_>; 5] = [
    Entry::Folder("dir/", 0o750),
    Entry::File("dir/run", b"#!/bin/sh\n", 0o755),
    Entry::Folder("empty/", 0o700),
    Entry::Link("link", "/usr/bin/python3"),
    Entry::HardLink("dir/again", "dir/run"),
];

fn check(fixture: &Fixture) {
    assert_eq!(fixture.text("x/dir/run"), "#!/bin/sh\n");
    assert_eq!(fixture.text("x/dir/again"), "#!/bin/sh\n");
    assert_eq!((fixture.mode("x/dir"), fixture.mode("x/dir/run")), (0o750, 0o755));
    assert_eq!(fixture.mode("x/empty"), 0o700);
    assert_eq!(fs::read_link(fixture.path("x/link")).unwrap().to_str(), Some("/usr/bin/python3"));
    assert_eq!(fixture.files(), ["x", "x/dir", "x/dir/again", "x/dir/run", "x/empty", "x/link"]);
}

#[test]
fn a_gzip_archive_is_unpacked_with_modes_links_and_empty_folders() {
    let fixture = Fixture::new();
    assert!(fixture.fetch(tar_gz(&TREE)));
    check(&fixture);
}

#[test]
fn a_zstd_archive_is_recognized_by_its_content() {
    let fixture = Fixture::new();
    assert!(fixture.fetch(tar_zst(&TREE)));
    check(&fixture);
}

#[test]
fn an_archive_of_several_gzip_members_is_unpacked() {
    let fixture = Fixture::new();
    let whole = tar(&TREE);
    let (head, tail) = whole.split_at(700);
    assert!(
        fixture.fetch([guest_test::archive::gzip(head), guest_test::archive::gzip(tail)].concat())
    );
    check(&fixture);
}

#[test]
fn an_archive_with_a_file_url_is_unpacked() {
    let fixture = Fixture::new();
    fs::write(fixture.path("a rchive"), tar_gz(&TREE)).unwrap();
    let url = format!("file://{}/a%20rchive", fixture.path("").display());
    assert!(fixture.run(&json!({ "storages": [fixture.entry("x", &url)] })));
    fs::remove_file(fixture.path("a rchive")).unwrap();
    check(&fixture);
}

#[test]
fn an_archive_is_merged_into_an_existing_target() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("x/dir/old")).unwrap();
    fs::write(fixture.path("x/dir/run"), "old").unwrap();
    fs::create_dir_all(fixture.path("x/link/was/a/folder")).unwrap();
    assert!(fixture.fetch(tar_gz(&TREE)));
    fs::remove_dir(fixture.path("x/dir/old")).unwrap();
    check(&fixture);
}

#[test]
fn a_link_in_the_target_is_replaced_and_not_followed() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("x")).unwrap();
    fs::create_dir_all(fixture.path("outside")).unwrap();
    symlink(fixture.path("outside"), fixture.path("x/dir")).unwrap();
    assert!(fixture.fetch(tar_gz(&TREE)));
    assert_eq!(fs::read_dir(fixture.path("outside")).unwrap().count(), 0);
    fs::remove_dir(fixture.path("outside")).unwrap();
    check(&fixture);
}

#[test]
fn a_link_on_the_path_to_a_new_target_is_followed_and_stays() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("real")).unwrap();
    fs::write(fixture.path("real/precious"), "1").unwrap();
    symlink(fixture.path("real"), fixture.path("link")).unwrap();
    let server = Server::start(|_| Reply::bytes(tar_gz(&TREE)));
    assert!(fixture.run(&json!({ "storages": [fixture.entry("link/sub", &server.url())] })));
    assert_eq!(fs::read_link(fixture.path("link")).unwrap(), fixture.path("real"));
    assert_eq!(fixture.text("real/precious"), "1");
    assert_eq!(fixture.text("real/sub/dir/run"), "#!/bin/sh\n");
}

#[test]
fn a_link_in_place_of_the_stage_is_removed_and_not_followed() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("x")).unwrap();
    fs::create_dir_all(fixture.path("outside/download/precious")).unwrap();
    symlink(fixture.path("outside"), fixture.path("x/.vm0")).unwrap();
    assert!(fixture.fetch(tar_gz(&TREE)));
    assert!(fixture.path("outside/download/precious").exists());
    fs::remove_dir_all(fixture.path("outside")).unwrap();
    check(&fixture);
}

/// Mounts in a mount namespace of this test's thread and the threads that it starts.
fn mount_here(kind: &str, target: &std::path::Path, options: Option<&str>) {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_folder_of_a_lower_overlay_layer_is_replaced() {
    let fixture = Fixture::new();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .unwrap();
    fs::create_dir(fixture.path("disk")).unwrap();
    mount_here("tmpfs", &fixture.path("disk"), None);
    for folder in ["disk/lower/link/was/a/folder", "disk/lower/dir/old", "disk/upper", "disk/work"]
    {
        fs::create_dir_all(fixture.path(folder)).unwrap();
    }
    fs::write(fixture.path("disk/precious"), "1").unwrap();
    symlink(fixture.path("disk"), fixture.path("disk/lower/link/out")).unwrap();
    fs::create_dir(fixture.path("x")).unwrap();
    let disk = fixture.path("disk").display().to_string();
    let layers = format!("lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work");
    mount_here("overlay", &fixture.path("x"), Some(&layers));
    assert!(fixture.fetch(tar_gz(&TREE)));
    assert_eq!(fixture.text("disk/precious"), "1");
    assert_eq!(fs::read_link(fixture.path("x/link")).unwrap().to_str(), Some("/usr/bin/python3"));
    assert!(fixture.path("x/dir/old").exists() && fixture.path("x/dir/again").exists());
    for mounted in ["x", "disk"] {
        nix::mount::umount(&fixture.path(mounted)).unwrap();
    }
}

#[test]
fn a_read_only_folder_is_unpacked_with_its_entries() {
    let fixture = Fixture::new();
    let entries = [Entry::Folder("locked/", 0o555), Entry::File("locked/in", b"1", 0o444)];
    assert!(fixture.fetch(tar_gz(&entries)));
    assert_eq!((fixture.mode("x/locked"), fixture.mode("x/locked/in")), (0o555, 0o444));
}

#[test]
fn set_user_id_bits_are_stripped() {
    let fixture = Fixture::new();
    assert!(fixture.fetch(tar_gz(&[Entry::File("su", b"1", 0o6755), Entry::Folder("d/", 0o1777)])));
    assert_eq!((fixture.mode("x/su"), fixture.mode("x/d")), (0o755, 0o777));
}

#[test]
fn nested_mounts_are_unpacked_in_any_order() {
    let server = Server::start(|request| {
        let name = request.path.trim_start_matches('/').to_owned();
        Reply::bytes(tar_gz(&[Entry::File(&name, name.as_bytes(), 0o644)]))
    });
    let fixture = Fixture::new();
    let entry = |mount, name: &str| fixture.entry(mount, &format!("{}/{name}", server.url()));
    let entries =
        [entry("x/b/c", "1"), entry("x", "2"), entry("x/b", "3"), entry("x", "4"), entry("y", "5")];
    assert!(fixture.run(&json!({ "storages": entries })));
    let files = ["x/2", "x/4", "x/b/3", "x/b/c/1", "y/5"];
    assert_eq!(files.map(|file| fixture.text(file)), ["2", "4", "3", "1", "5"]);
}

#[test]
fn two_hundred_archives_are_unpacked() {
    let server = Server::start(|request| {
        Reply::bytes(tar_zst(&[Entry::File("f", request.path.as_bytes(), 0o644)]))
    });
    let fixture = Fixture::new();
    let entry =
        |number| fixture.entry(&format!("x/{number}"), &format!("{}/{number}", server.url()));
    assert!(fixture.run(&json!({ "artifacts": (0..200).map(entry).collect::<Vec<_>>() })));
    let right = |number| fixture.text(&format!("x/{number}/f")) == format!("/{number}");
    assert!((0..200).all(right));
}

#[test]
fn a_mount_without_an_archive_is_an_empty_folder() {
    let fixture = Fixture::new();
    let mount = json!({ "mountPath": fixture.path("x"), "empty": true });
    assert!(fixture.run(&json!({ "storageMounts": [mount] })));
    assert_eq!(fixture.files(), ["x"]);
}

#[test]
fn cleanup_removes_all_but_cached_mounts() {
    let fixture = Fixture::new();
    for folder in ["x/old/deep", "x/kept/deep"] {
        fs::create_dir_all(fixture.path(folder)).unwrap();
    }
    let manifest = json!({
        "storages": [{ "mountPath": fixture.path("x/kept"), "archiveUrl": null, "cached": true }],
        "cleanupPaths": [fixture.path("x"), fixture.path("never-was")],
    });
    assert!(fixture.run(&manifest));
    assert_eq!(fixture.files(), ["x", "x/kept", "x/kept/deep"]);
}

#[test]
fn instructions_are_installed_under_the_name_that_the_agent_reads() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("home")).unwrap();
    fs::write(fixture.path("home/CLAUDE.md"), "old").unwrap();
    fs::write(fixture.path("home/settings"), "mine").unwrap();
    let server =
        Server::start(|_| Reply::bytes(tar_gz(&[Entry::File("CLAUDE.md", b"new", 0o644)])));
    let entry = json!({
        "mountPath": fixture.path("home"), "extractPath": fixture.path("stage"),
        "archiveUrl": server.url(), "instructionsTargetFilename": "AGENTS.md",
    });
    assert!(fixture.run(&json!({ "storages": [entry] })));
    assert_eq!(fixture.text("home/AGENTS.md"), "new");
    assert_eq!(fixture.files(), ["home", "home/AGENTS.md", "home/settings"]);
}

#[test]
fn instruction_cleanup_removes_instructions() {
    let fixture = Fixture::new();
    fs::create_dir_all(fixture.path("home")).unwrap();
    fs::write(fixture.path("home/AGENTS.md"), "old").unwrap();
    let cleanup = json!({ "mountPath": fixture.path("home"), "targetFilename": "AGENTS.md" });
    assert!(fixture.run(&json!({ "instructionCleanups": [cleanup] })));
    assert_eq!(fixture.files(), ["home"]);
}
