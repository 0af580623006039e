//! Files: trees in and out, whole or not at all.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::thread;

use nix::mount::{MsFlags, mount};
use serde_bytes::ByteBuf;
use tempfile::tempdir;
use vsock_host::{Error, Guest, TreeItem};
use vsock_proto::{Entry, EntryKind, Read, WINDOW, Write};
use vsock_test::{Pair, config, directory, file, read_from, run, shell, soon, write_to};

/// Sends a tree in one request.
fn write(guest: &Guest, request: Write, entries: &[(Entry, &[u8])]) -> vsock_host::Result<()> {
    let mut tree = guest.write(request, soon())?;
    for (entry, bytes) in entries {
        tree.entry(entry.clone(), soon())?;
        tree.data(bytes, soon())?;
    }
    tree.finish(soon())
}

/// Fetches a tree: each entry with its bytes.
fn read(guest: &Guest, request: Read) -> vsock_host::Result<Vec<(Entry, Vec<u8>)>> {
    let mut tree = guest.read(request, soon())?;
    let mut entries: Vec<(Entry, Vec<u8>)> = Vec::new();
    while let Some(item) = tree.next(soon())? {
        match item {
            TreeItem::Entry(entry) => entries.push((entry, Vec::new())),
            TreeItem::Data(bytes) => entries.last_mut().unwrap().1.extend(bytes),
        }
    }
    Ok(entries)
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_file_arrives_with_its_bytes_mode_and_time() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let path = folder.path().join("file");
    let entry = Entry { mode: 0o4751, modified: Some(1_000_000_000), ..file("") };
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|number| (number % 251) as u8).collect();
    write(&pair.guest, write_to(&path), &[(entry, &bytes)]).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o4751);
    assert_eq!(metadata.mtime(), 1_000_000_000);
}

#[test]
fn a_tree_is_copied_in_with_links_and_empty_folders() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let link = EntryKind::Symlink { target: ByteBuf::from("../nowhere") };
    let entries: [(Entry, &[u8]); 5] = [
        (directory(""), b""),
        (directory("empty"), b""),
        (Entry { mode: 0o700, ..directory("full") }, b""),
        (file("full/file"), b"bytes"),
        (Entry { kind: link, ..file("full/link") }, b""),
    ];
    let top = folder.path().join("top");
    write(&pair.guest, write_to(&top), &entries).unwrap();
    assert_eq!(names(&top.join("empty")).len(), 0);
    assert_eq!(fs::metadata(top.join("full")).unwrap().mode() & 0o7777, 0o700);
    assert_eq!(fs::read(top.join("full/file")).unwrap(), b"bytes");
    assert_eq!(fs::read_link(top.join("full/link")).unwrap(), Path::new("../nowhere"));
}

#[test]
fn a_tree_is_copied_out_with_modes_links_and_empty_folders() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let top = folder.path().join("top");
    fs::create_dir_all(top.join("empty")).unwrap();
    fs::write(top.join("file"), "bytes").unwrap();
    fs::set_permissions(top.join("file"), Permissions::from_mode(0o2711)).unwrap();
    symlink("../nowhere", top.join("link")).unwrap();
    let entries = read(&pair.guest, read_from(&top)).unwrap();
    let paths: Vec<&[u8]> = entries.iter().map(|(entry, _)| &entry.path[..]).collect();
    assert_eq!(paths, [&b""[..], b"empty", b"file", b"link"]);
    assert_eq!(entries[1].0.kind, EntryKind::Directory);
    assert_eq!(entries[2].0.mode, 0o2711);
    assert_eq!(entries[2].1, b"bytes");
    assert_eq!(entries[3].0.kind, EntryKind::Symlink { target: ByteBuf::from("../nowhere") });
}

#[test]
fn ten_thousand_files_are_copied_in_one_request_and_back() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let top = folder.path().join("top");
    let contents: Vec<(String, String)> = (0..10_000)
        .map(|number| (format!("{:02}/{number:04}", number % 50), format!("content {number}")))
        .collect();
    let entries: Vec<(Entry, &[u8])> =
        contents.iter().map(|(path, content)| (file(path), content.as_bytes())).collect();
    let request = Write { make_parents: true, ..write_to(&top) };
    write(&pair.guest, request, &entries).unwrap();
    let back: BTreeSet<(ByteBuf, Vec<u8>)> = read(&pair.guest, read_from(&top))
        .unwrap()
        .into_iter()
        .filter(|(entry, _)| matches!(entry.kind, EntryKind::File { .. }))
        .map(|(entry, bytes)| (entry.path, bytes))
        .collect();
    let expected = contents
        .into_iter()
        .map(|(path, content)| (ByteBuf::from(path), content.into_bytes()))
        .collect();
    assert!(back == expected);
}

#[test]
fn a_reader_sees_the_old_or_the_new_file_during_a_replacement() {
    const LENGTH: usize = 200_000;
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let path = folder.path().join("file");
    fs::write(&path, vec![0; LENGTH]).unwrap();
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 1..=100 {
                let bytes = vec![number; LENGTH];
                write(&pair.guest, write_to(&path), &[(file(""), &bytes)]).unwrap();
            }
        });
        while !writer.is_finished() {
            let bytes = fs::read(&path).unwrap();
            assert_eq!(bytes.len(), LENGTH);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
        }
    });
    assert_eq!(fs::read(&path).unwrap()[0], 100);
    assert_eq!(names(folder.path()), BTreeSet::from(["file".into()]));
}

#[test]
fn a_write_that_is_dropped_in_mid_file_leaves_the_old_file_and_no_partial_one() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let path = folder.path().join("file");
    fs::write(&path, "old").unwrap();
    let mut tree = pair.guest.write(write_to(&path), soon()).unwrap();
    tree.entry(file(""), soon()).unwrap();
    // More than a window: so the guest has written some of it.
    tree.data(&vec![1; 2 * WINDOW as usize], soon()).unwrap();
    assert_eq!(names(folder.path()).len(), 2);
    drop(tree);
    pair.close().unwrap();
    assert_eq!(names(folder.path()), BTreeSet::from(["file".into()]));
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_connection_that_ends_in_mid_file_leaves_no_partial_one() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let path = folder.path().join("file");
    let mut tree = pair.guest.write(write_to(&path), soon()).unwrap();
    tree.entry(file(""), soon()).unwrap();
    tree.data(&vec![1; 2 * WINDOW as usize], soon()).unwrap();
    pair.close().unwrap();
    assert_eq!(names(folder.path()).len(), 0);
    assert!(matches!(tree.finish(soon()), Err(Error::Lost { .. })));
}

#[test]
fn a_read_that_is_dropped_leaves_the_guest_usable() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let path = folder.path().join("file");
    fs::write(&path, vec![1; 10 * WINDOW as usize]).unwrap();
    let mut tree = pair.guest.read(read_from(&path), soon()).unwrap();
    assert!(matches!(tree.next(soon()), Ok(Some(TreeItem::Entry(_)))));
    drop(tree);
    let again = read(&pair.guest, read_from(&path)).unwrap();
    assert_eq!(again[0].1.len() as u64, 10 * WINDOW);
}

#[test]
fn a_missing_file_is_an_error_with_path_and_reason() {
    let pair = Pair::new();
    let error = read(&pair.guest, read_from(Path::new("/no/such/file"))).unwrap_err();
    assert_eq!(error.to_string(), "the guest could not read `/no/such/file`");
    let Error::Refused { source, .. } = error else {
        panic!("not refused");
    };
    assert_eq!(source.errno, 2);
    assert_eq!(source.message, "cannot read /no/such/file: no such file or directory");
}

#[test]
fn a_path_that_leads_out_of_its_tree_is_refused() {
    let (pair, folder) = (Pair::new(), tempdir().unwrap());
    let top = folder.path().join("top");
    let entries: [(Entry, &[u8]); 2] = [(directory(""), b""), (file("../escaped"), b"x")];
    let result = write(&pair.guest, write_to(&top), &entries);
    assert!(matches!(result, Err(Error::Refused { .. })));
    assert_eq!(names(folder.path()), BTreeSet::from(["top".into()]));
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_is_an_error_and_leaves_no_partial_file() {
    let folder = tempdir().unwrap();
    let disk = folder.path().to_owned();
    // A mount namespace for the guest end's threads and commands, which ends with them.
    let pair = Pair::prepared(config(), move || {
        host_test::enter_mount_namespace();
        let none = None::<&str>;
        mount(none, &disk, Some("tmpfs"), MsFlags::empty(), Some("size=1m")).unwrap();
    });
    let path = folder.path().join("file");
    let result = write(&pair.guest, write_to(&path), &[(file(""), &vec![1; 2 << 20])]);
    let Err(Error::Refused { source, .. }) = result else {
        panic!("not refused: {result:?}");
    };
    assert_eq!(source.errno, nix::errno::Errno::ENOSPC as i32);
    let list = run(&pair.guest, shell(&format!("ls -A {}", folder.path().display())));
    assert_eq!(list.stdout, b"");
}
