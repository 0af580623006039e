//! Copies of trees: owners, modes, hard links and holes are kept; other files are left alone.

use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::sys::stat::{Mode, SFlag, mknod};
use serde_bytes::ByteBuf;
use tempfile::tempdir;
use vsock_proto::{Entry, EntryKind, HostBody, Owner, Read, Special, Stream, Write};

use crate::file::{entry, file, message, names, target, write};
use crate::host::{Answer, Host};

fn merging(path: &Path) -> Write {
    Write { keeps_existing: true, ..target(path) }
}

fn folder(path: &str) -> Entry {
    Entry { mode: 0o755, ..entry(path, EntryKind::Directory) }
}

fn hard_link(path: &str, target: &str) -> Entry {
    entry(path, EntryKind::HardLink { target: ByteBuf::from(target) })
}

fn hole(length: u64) -> Entry {
    entry("", EntryKind::Hole { length })
}

fn owner(path: &Path) -> (u32, u32) {
    let data = fs::symlink_metadata(path).unwrap();
    (data.uid(), data.gid())
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

/// All entries of a tree, each with its bytes.
fn read(path: &Path) -> Vec<(Entry, Vec<u8>)> {
    let mut host = Host::connected();
    let path = ByteBuf::from(path.as_os_str().as_bytes());
    let id = host.request(HostBody::Read(Read { path }));
    let mut seen: Vec<(Entry, Vec<u8>)> = Vec::new();
    loop {
        match host.answer_to(id) {
            Answer::Entry(entry) => seen.push((entry, Vec::new())),
            Answer::Data(Stream::Stdout, bytes) => seen.last_mut().unwrap().1.extend(bytes),
            other => {
                assert_eq!(other, Answer::Done);
                return seen;
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn what_is_new_belongs_to_the_owner_of_its_folder() {
    let place = tempdir().unwrap();
    chown(place.path(), Some(1234), Some(567)).unwrap();
    let top = place.path().join("top");
    let link = entry("link", EntryKind::Symlink { target: ByteBuf::from("x") });
    let entries: [(Entry, &[u8]); 4] =
        [(folder(""), b""), (folder("d"), b""), (file("d/file"), b"1"), (link, b"")];
    let mut host = Host::connected();

    assert_eq!(write(&mut host, merging(&top), &entries), Answer::Done);

    for name in ["", "d", "d/file", "link"] {
        assert_eq!(owner(&top.join(name)), (1234, 567), "{name}");
    }
    let parents = Write { make_parents: true, ..merging(&top.join("made/deep/file")) };
    assert_eq!(write(&mut host, parents, &[(file(""), b"1")]), Answer::Done);
    assert_eq!(owner(&top.join("made/deep/file")), (1234, 567));
    assert_eq!(owner(&top.join("made/deep")), (1234, 567));
}

#[test]
#[ignore = "needs root"]
fn a_file_that_is_there_keeps_its_owner_and_mode_unless_the_entry_names_an_owner() {
    let place = tempdir().unwrap();
    let path = place.path().join("file");
    fs::write(&path, "old").unwrap();
    chown(&path, Some(1234), Some(567)).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    let request = Write { owner: Some(Owner { uid: 1, gid: 1 }), ..merging(&path) };
    let mut host = Host::connected();

    assert_eq!(write(&mut host, request, &[(file(""), b"new")]), Answer::Done);
    assert_eq!((owner(&path), mode(&path)), ((1234, 567), 0o755));
    assert_eq!(fs::read(&path).unwrap(), b"new");

    let named = Entry { owner: Some(Owner { uid: 7, gid: 8 }), ..file("") };
    assert_eq!(write(&mut host, merging(&path), &[(named.clone(), b"")]), Answer::Done);
    assert_eq!((owner(&path), mode(&path)), ((7, 8), 0o755));

    assert_eq!(write(&mut host, target(&path), &[(named, b"")]), Answer::Done);
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn a_link_that_the_target_names_stays_and_the_file_behind_it_is_replaced() {
    let place = tempdir().unwrap();
    let (link, real) = (place.path().join("link"), place.path().join("real"));
    fs::write(&real, "old").unwrap();
    symlink("real", &link).unwrap();
    let mut host = Host::connected();

    assert_eq!(write(&mut host, merging(&link), &[(file(""), b"new")]), Answer::Done);

    assert_eq!(fs::read_link(&link).unwrap(), Path::new("real"));
    assert_eq!(fs::read(&real).unwrap(), b"new");
}

#[test]
fn a_target_that_is_named_as_a_folder_and_is_none_takes_no_file() {
    let place = tempdir().unwrap();
    fs::write(place.path().join("file"), "old").unwrap();
    let mut host = Host::connected();
    for (name, why) in [("absent/", "no such file"), ("file/", "not a directory")] {
        let path = place.path().join(name);
        let request = Write { name: ByteBuf::from("x"), ..merging(&path) };
        let text = message(write(&mut host, request, &[(file(""), b"new")]));
        assert!(text.starts_with("cannot write to the folder") && text.contains(why), "{text}");
    }
    assert_eq!(names(&place), ["file"]);
    let absent = place.path().join("absent/");
    assert_eq!(write(&mut host, merging(&absent), &[(folder(""), b"")]), Answer::Done);
    assert!(absent.is_dir());
}

#[test]
fn sockets_and_fifos_are_not_replaced() {
    let place = tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let _socket = UnixListener::bind(at("socket")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
    let mut host = Host::connected();
    for (name, what) in [("socket", "a socket"), ("fifo", "a FIFO")] {
        let link = entry(name, EntryKind::Symlink { target: ByteBuf::from("x") });
        for replacement in [file(name), link] {
            let text = message(write(&mut host, target(place.path()), &[(replacement, b"")]));
            assert_eq!(text, format!("cannot replace {}: it is {what}", at(name).display()));
        }
    }
    assert_eq!(names(&place), ["fifo", "socket"]);
}

#[test]
#[ignore = "needs root"]
fn a_device_is_not_replaced() {
    let place = tempdir().unwrap();
    let path = place.path().join("null");
    mknod(&path, SFlag::S_IFCHR, Mode::S_IRWXU, nix::sys::stat::makedev(1, 3)).unwrap();
    let mut host = Host::connected();

    let text = message(write(&mut host, merging(&path), &[(file(""), b"x")]));

    assert!(text.ends_with("null: it is a device"), "{text}");
    assert!(fs::metadata(&path).unwrap().file_type().is_char_device());
}

#[test]
fn hard_links_and_holes_go_in_and_come_out() {
    let place = tempdir().unwrap();
    let top = place.path().join("top");
    let mut host = Host::connected();
    // The second copy finds both names linked to one file.
    for _ in 0..2 {
        let entries: [(Entry, &[u8]); 6] = [
            (folder(""), b""),
            (folder("d"), b""),
            (file("d/disk"), b"head"),
            (hole(1 << 20), b"tail"),
            (hole(1 << 20), b""),
            (hard_link("second", "d/disk"), b""),
        ];
        assert_eq!(write(&mut host, merging(&top), &entries), Answer::Done);
    }

    let disk = fs::metadata(top.join("d/disk")).unwrap();
    assert_eq!((disk.len(), disk.nlink()), ((2 << 20) + 8, 2));
    assert!(disk.blocks() * 512 < 1 << 20);
    assert_eq!(fs::metadata(top.join("second")).unwrap().ino(), disk.ino());
    assert_eq!(fs::read(top.join("second")).unwrap()[(1 << 20) + 4..][..4], *b"tail");
    assert_eq!(fs::read_dir(&top).unwrap().count(), 2);

    let seen = read(&top);
    let kinds: Vec<_> = seen.iter().map(|(entry, _)| (&entry.path[..], &entry.kind)).collect();
    assert_eq!(kinds[2], (&b"d/disk"[..], &EntryKind::File { size: disk.len() }));
    let second = EntryKind::HardLink { target: ByteBuf::from("d/disk") };
    assert_eq!(kinds.last(), Some(&(&b"second"[..], &second)));
    let holes: u64 = kinds.iter().map(|(_, kind)| length(kind)).sum();
    let bytes: u64 = seen.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    assert_eq!(holes + bytes, disk.len());
    assert!(bytes < 1 << 20);
}

fn length(kind: &EntryKind) -> u64 {
    match kind {
        EntryKind::Hole { length } => *length,
        _ => 0,
    }
}

#[test]
fn a_file_that_is_one_hole_is_read_without_bytes() {
    let place = tempdir().unwrap();
    let path = place.path().join("empty");
    File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let seen = read(&path);
    assert_eq!(seen.len(), 2);
    assert_eq!(length(&seen[1].0.kind), 1 << 40);
    assert!(seen.iter().all(|(_, bytes)| bytes.is_empty()));
    File::options().write(true).open(&path).unwrap().write_all_at(b"x", 1 << 30).unwrap();
    let after = read(&path);
    let size = |(entry, bytes): &(Entry, Vec<u8>)| length(&entry.kind) + bytes.len() as u64;
    assert_eq!(after.iter().map(size).sum::<u64>(), 1 << 40);
}

#[test]
fn a_hard_link_and_a_hole_need_what_they_belong_to() {
    let place = tempdir().unwrap();
    let top = place.path().join("top");
    fs::write(place.path().join("secret"), "1").unwrap();
    let mut host = Host::connected();
    for target in ["../secret", "/etc/passwd", "absent", ""] {
        let entries: [(Entry, &[u8]); 2] = [(folder(""), b""), (hard_link("name", target), b"")];
        let answer = write(&mut host, merging(&top), &entries);
        assert!(matches!(answer, Answer::Failed(_)), "{target}: {answer:?}");
    }
    let answer = write(&mut host, merging(&top), &[(folder(""), b""), (hole(1), b"")]);
    assert!(matches!(answer, Answer::Failed(_)), "{answer:?}");
    assert_eq!(fs::read_dir(&top).unwrap().count(), 0);
}

#[test]
fn what_has_no_content_is_named_and_does_not_end_the_tree() {
    let place = tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let _socket = UnixListener::bind(at("a")).unwrap();
    nix::unistd::mkfifo(&at("b"), Mode::S_IRWXU).unwrap();
    fs::write(at("c"), "content").unwrap();

    let seen = read(place.path());

    let kinds: Vec<_> = seen.iter().map(|(entry, _)| entry.kind.clone()).collect();
    let expected = [
        EntryKind::Directory,
        EntryKind::Special(Special::Socket),
        EntryKind::Special(Special::Fifo),
        EntryKind::File { size: 7 },
    ];
    assert_eq!(kinds, expected);
    assert_eq!(seen[3].1, b"content");
}
