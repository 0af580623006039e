//! What is where afterwards.

use std::fs;
use std::os::unix::fs::symlink;

use guest_test::archive::{Entry, tar, tar_gz, tar_zst};
use guest_test::{Reply, Server};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::harness::Place;

const TREE: [Entry<'_>; 5] = [
    Entry::Folder("dir/", 0o750),
    Entry::File("dir/run", b"#!/bin/sh\n", 0o755),
    Entry::Folder("empty/", 0o700),
    Entry::Link("link", "/usr/bin/python3"),
    Entry::HardLink("dir/again", "dir/run"),
];

fn check(place: &Place) {
    assert_eq!(place.text("x/dir/run"), "#!/bin/sh\n");
    assert_eq!(place.text("x/dir/again"), "#!/bin/sh\n");
    assert_eq!((place.mode("x/dir"), place.mode("x/dir/run")), (0o750, 0o755));
    assert_eq!(place.mode("x/empty"), 0o700);
    assert_eq!(fs::read_link(place.path("x/link")).unwrap().to_str(), Some("/usr/bin/python3"));
    assert_eq!(place.files(), ["x", "x/dir", "x/dir/again", "x/dir/run", "x/empty", "x/link"]);
}

#[test]
fn a_gzip_archive_is_unpacked_with_modes_links_and_empty_folders() {
    let place = Place::new();
    assert!(place.fetch(tar_gz(&TREE)));
    check(&place);
}

#[test]
fn a_zstd_archive_is_unpacked_as_well_whatever_it_is_called() {
    let place = Place::new();
    assert!(place.fetch(tar_zst(&TREE)));
    check(&place);
}

#[test]
fn an_archive_of_several_compressed_members_is_one() {
    let place = Place::new();
    let whole = tar(&TREE);
    let (head, tail) = whole.split_at(700);
    assert!(
        place.fetch([guest_test::archive::gzip(head), guest_test::archive::gzip(tail)].concat())
    );
    check(&place);
}

#[test]
fn an_archive_that_is_a_file_is_taken() {
    let place = Place::new();
    fs::write(place.path("a rchive"), tar_gz(&TREE)).unwrap();
    let url = format!("file://{}/a%20rchive", place.path("").display());
    assert!(place.run(&json!({ "storages": [place.entry("x", &url)] })));
    fs::remove_file(place.path("a rchive")).unwrap();
    check(&place);
}

#[test]
fn what_is_in_the_target_already_is_merged_with_the_archive() {
    let place = Place::new();
    fs::create_dir_all(place.path("x/dir/old")).unwrap();
    fs::write(place.path("x/dir/run"), "old").unwrap();
    fs::create_dir_all(place.path("x/link/was/a/folder")).unwrap();
    assert!(place.fetch(tar_gz(&TREE)));
    fs::remove_dir(place.path("x/dir/old")).unwrap();
    check(&place);
}

#[test]
fn a_link_in_the_target_is_replaced_and_not_followed() {
    let place = Place::new();
    fs::create_dir_all(place.path("x")).unwrap();
    fs::create_dir_all(place.path("outside")).unwrap();
    symlink(place.path("outside"), place.path("x/dir")).unwrap();
    assert!(place.fetch(tar_gz(&TREE)));
    assert_eq!(fs::read_dir(place.path("outside")).unwrap().count(), 0);
    fs::remove_dir(place.path("outside")).unwrap();
    check(&place);
}

#[test]
fn a_link_that_leads_to_a_new_target_stays_and_so_does_what_is_behind_it() {
    let place = Place::new();
    fs::create_dir_all(place.path("real")).unwrap();
    fs::write(place.path("real/precious"), "1").unwrap();
    symlink(place.path("real"), place.path("link")).unwrap();
    let server = Server::start(|_| Reply::bytes(tar_gz(&TREE)));
    assert!(place.run(&json!({ "storages": [place.entry("link/sub", &server.url())] })));
    assert_eq!(fs::read_link(place.path("link")).unwrap(), place.path("real"));
    assert_eq!(place.text("real/precious"), "1");
    assert_eq!(place.text("real/sub/dir/run"), "#!/bin/sh\n");
}

#[test]
fn a_link_where_the_stage_of_a_merge_is_to_be_is_removed_and_not_followed() {
    let place = Place::new();
    fs::create_dir_all(place.path("x")).unwrap();
    fs::create_dir_all(place.path("outside/download/precious")).unwrap();
    symlink(place.path("outside"), place.path("x/.vm0")).unwrap();
    assert!(place.fetch(tar_gz(&TREE)));
    assert!(place.path("outside/download/precious").exists());
    fs::remove_dir_all(place.path("outside")).unwrap();
    check(&place);
}

/// Mounts in a namespace that only this test's thread is in, and the threads that it starts.
fn mount_here(kind: &str, target: &std::path::Path, options: Option<&str>) {
    mount(Some(kind), target, Some(kind), MsFlags::empty(), options).unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_folder_of_a_lower_layer_is_replaced_too() {
    let place = Place::new();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .unwrap();
    fs::create_dir(place.path("disk")).unwrap();
    mount_here("tmpfs", &place.path("disk"), None);
    for folder in ["disk/lower/link/was/a/folder", "disk/lower/dir/old", "disk/upper", "disk/work"]
    {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    fs::write(place.path("disk/precious"), "1").unwrap();
    symlink(place.path("disk"), place.path("disk/lower/link/out")).unwrap();
    fs::create_dir(place.path("x")).unwrap();
    let disk = place.path("disk").display().to_string();
    let layers = format!("lowerdir={disk}/lower,upperdir={disk}/upper,workdir={disk}/work");
    mount_here("overlay", &place.path("x"), Some(&layers));
    assert!(place.fetch(tar_gz(&TREE)));
    assert_eq!(place.text("disk/precious"), "1");
    assert_eq!(fs::read_link(place.path("x/link")).unwrap().to_str(), Some("/usr/bin/python3"));
    assert!(place.path("x/dir/old").exists() && place.path("x/dir/again").exists());
    for mounted in ["x", "disk"] {
        nix::mount::umount(&place.path(mounted)).unwrap();
    }
}

#[test]
fn a_folder_that_nobody_may_write_to_is_filled_first() {
    let place = Place::new();
    let entries = [Entry::Folder("locked/", 0o555), Entry::File("locked/in", b"1", 0o444)];
    assert!(place.fetch(tar_gz(&entries)));
    assert_eq!((place.mode("x/locked"), place.mode("x/locked/in")), (0o555, 0o444));
}

#[test]
fn set_user_id_and_the_like_are_stripped() {
    let place = Place::new();
    assert!(place.fetch(tar_gz(&[Entry::File("su", b"1", 0o6755), Entry::Folder("d/", 0o1777)])));
    assert_eq!((place.mode("x/su"), place.mode("x/d")), (0o755, 0o777));
}

#[test]
fn nested_mounts_are_all_there_whatever_their_order() {
    let server = Server::start(|request| {
        let name = request.path.trim_start_matches('/').to_owned();
        Reply::bytes(tar_gz(&[Entry::File(&name, name.as_bytes(), 0o644)]))
    });
    let place = Place::new();
    let entry = |mount, name: &str| place.entry(mount, &format!("{}/{name}", server.url()));
    let entries =
        [entry("x/b/c", "1"), entry("x", "2"), entry("x/b", "3"), entry("x", "4"), entry("y", "5")];
    assert!(place.run(&json!({ "storages": entries })));
    let files = ["x/2", "x/4", "x/b/3", "x/b/c/1", "y/5"];
    assert_eq!(files.map(|file| place.text(file)), ["2", "4", "3", "1", "5"]);
}

#[test]
fn two_hundred_archives_all_arrive() {
    let server = Server::start(|request| {
        Reply::bytes(tar_zst(&[Entry::File("f", request.path.as_bytes(), 0o644)]))
    });
    let place = Place::new();
    let entry = |number| place.entry(&format!("x/{number}"), &format!("{}/{number}", server.url()));
    assert!(place.run(&json!({ "artifacts": (0..200).map(entry).collect::<Vec<_>>() })));
    let right = |number| place.text(&format!("x/{number}/f")) == format!("/{number}");
    assert!((0..200).all(right));
}

#[test]
fn a_mount_without_an_archive_is_an_empty_folder() {
    let place = Place::new();
    let mount = json!({ "mountPath": place.path("x"), "empty": true });
    assert!(place.run(&json!({ "storageMounts": [mount] })));
    assert_eq!(place.files(), ["x"]);
}

#[test]
fn cleanup_removes_all_but_what_is_cached() {
    let place = Place::new();
    for folder in ["x/old/deep", "x/kept/deep"] {
        fs::create_dir_all(place.path(folder)).unwrap();
    }
    let manifest = json!({
        "storages": [{ "mountPath": place.path("x/kept"), "archiveUrl": null, "cached": true }],
        "cleanupPaths": [place.path("x"), place.path("never-was")],
    });
    assert!(place.run(&manifest));
    assert_eq!(place.files(), ["x", "x/kept", "x/kept/deep"]);
}

#[test]
fn instructions_come_under_the_name_that_the_agent_reads() {
    let place = Place::new();
    fs::create_dir_all(place.path("home")).unwrap();
    fs::write(place.path("home/CLAUDE.md"), "old").unwrap();
    fs::write(place.path("home/settings"), "mine").unwrap();
    let server =
        Server::start(|_| Reply::bytes(tar_gz(&[Entry::File("CLAUDE.md", b"new", 0o644)])));
    let entry = json!({
        "mountPath": place.path("home"), "extractPath": place.path("stage"),
        "archiveUrl": server.url(), "instructionsTargetFilename": "AGENTS.md",
    });
    assert!(place.run(&json!({ "storages": [entry] })));
    assert_eq!(place.text("home/AGENTS.md"), "new");
    assert_eq!(place.files(), ["home", "home/AGENTS.md", "home/settings"]);
}

#[test]
fn instructions_that_are_no_longer_wanted_go() {
    let place = Place::new();
    fs::create_dir_all(place.path("home")).unwrap();
    fs::write(place.path("home/AGENTS.md"), "old").unwrap();
    let cleanup = json!({ "mountPath": place.path("home"), "targetFilename": "AGENTS.md" });
    assert!(place.run(&json!({ "instructionCleanups": [cleanup] })));
    assert_eq!(place.files(), ["home"]);
}
