//! Writes and reads of file trees.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use crate::host::{Answer, Host};
use nix::sys::stat::Mode;
use serde_bytes::ByteBuf;
use tempfile::{TempDir, tempdir};
use vsock_proto::{Entry, EntryKind, HostBody, Owner, Read, RequestId, Stream, WINDOW, Write};

pub(crate) fn target(path: &Path) -> Write {
    Write { target: ByteBuf::from(path.as_os_str().as_bytes()), ..Write::default() }
}

fn with_parents(path: &Path) -> Write {
    Write { make_parents: true, ..target(path) }
}

pub(crate) fn entry(path: &str, kind: EntryKind) -> Entry {
    Entry {
        path: ByteBuf::from(path),
        kind,
        mode: 0o640,
        owner: None,
        modified: Some(1_000_000_000),
    }
}

pub(crate) fn file(path: &str) -> Entry {
    entry(path, EntryKind::File { size: 0 })
}

/// Writes a tree of small files; returns the guest's final answer.
pub(crate) fn write(host: &mut Host, request: Write, entries: &[(Entry, &[u8])]) -> Answer {
    let id = host.request(HostBody::Write(request));
    for (entry, bytes) in entries {
        host.send(id, HostBody::Entry(entry.clone()));
        host.send(id, HostBody::Data(bytes));
    }
    host.send(id, HostBody::End);
    last(host, id)
}

/// The guest's final answer to a request.
pub(crate) fn last(host: &mut Host, id: RequestId) -> Answer {
    loop {
        match host.answer_to(id) {
            Answer::Credit(_) | Answer::Entry(_) | Answer::Data(..) => {}
            other => return other,
        }
    }
}

pub(crate) fn message(answer: Answer) -> String {
    let Answer::Failed(failure) = answer else {
        panic!("not failed: {answer:?}");
    };
    failure.message
}

pub(crate) fn names(folder: &TempDir) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_file_has_its_bytes_mode_and_time_and_replaces_the_old_one() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("file");
    fs::write(&path, "old").unwrap();
    let mut host = Host::connected();
    let answer = write(&mut host, target(&path), &[(file(""), b"new \xff")]);
    assert_eq!(answer, Answer::Done);
    assert_eq!(fs::read(&path).unwrap(), b"new \xff");
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o640);
    assert_eq!(metadata.mtime(), 1_000_000_000);
    assert_eq!(names(&folder), ["file"]);
}

#[test]
fn a_batch_goes_to_many_folders_that_are_made() {
    let folder = tempdir().unwrap();
    let entries: [(Entry, &[u8]); 3] =
        [(file("a/b/one"), b"1"), (file("a/b/two"), b"2"), (file("c/three"), b"3")];
    let mut host = Host::connected();
    let top = folder.path().join("missing/too");
    let answer = write(&mut host, with_parents(&top), &entries);
    assert_eq!(answer, Answer::Done);
    assert_eq!(fs::read(top.join("a/b/two")).unwrap(), b"2");
    assert_eq!(fs::read(top.join("c/three")).unwrap(), b"3");
}

#[test]
fn a_tree_comes_back_as_it_was_written() {
    let folder = tempdir().unwrap();
    let link = EntryKind::Symlink { target: ByteBuf::from("../nowhere") };
    let entries: [(Entry, &[u8]); 4] = [
        (entry("", EntryKind::Directory), b""),
        (entry("d", EntryKind::Directory), b""),
        (file("d/file"), b"bytes"),
        (entry("d/link", link.clone()), b""),
    ];
    let mut host = Host::connected();
    let path = folder.path().join("tree");
    assert_eq!(write(&mut host, target(&path), &entries), Answer::Done);
    let id =
        host.request(HostBody::Read(Read { path: ByteBuf::from(path.as_os_str().as_bytes()) }));
    let mut seen = Vec::new();
    loop {
        match host.answer_to(id) {
            Answer::Entry(entry) => seen.push((entry, Vec::new())),
            Answer::Data(Stream::Stdout, bytes) => seen.last_mut().unwrap().1.extend(bytes),
            other => break assert_eq!(other, Answer::Done),
        }
    }
    let summary: Vec<_> =
        seen.iter().map(|(entry, bytes)| (&entry.path[..], entry.modified, &bytes[..])).collect();
    let time = Some(1_000_000_000);
    let expected: [(&[u8], Option<i64>, &[u8]); 4] =
        [(b"", time, b""), (b"d", time, b""), (b"d/file", time, b"bytes"), (b"d/link", time, b"")];
    assert_eq!(summary, expected);
    assert_eq!(seen[3].0.kind, link);
    assert_eq!(seen[2].0.mode, 0o640);
}

#[test]
fn a_name_is_taken_if_the_target_is_a_folder() {
    let folder = tempdir().unwrap();
    let request = Write { name: ByteBuf::from("name"), ..target(folder.path()) };
    let mut host = Host::connected();
    let answer = write(&mut host, request, &[(file(""), b"x")]);
    assert_eq!(answer, Answer::Done);
    assert_eq!(names(&folder), ["name"]);
}

#[test]
fn a_folder_that_is_there_stays_as_it_is() {
    let folder = tempdir().unwrap();
    let before = fs::metadata(&folder).unwrap().permissions();
    let mut host = Host::connected();
    let top = [(entry("", EntryKind::Directory), &b""[..])];
    assert_eq!(write(&mut host, target(folder.path()), &top), Answer::Done);
    assert_eq!(fs::metadata(&folder).unwrap().permissions(), before);
}

#[test]
#[ignore = "needs root"]
fn a_folder_that_is_there_is_given_to_whom_its_entry_names() {
    let folder = tempdir().unwrap();
    let (there, link) = (folder.path().join("there"), folder.path().join("link"));
    fs::create_dir(&there).unwrap();
    fs::write(there.join("file"), "").unwrap();
    symlink(&there, &link).unwrap();
    let theirs = |path: &str| {
        let owner = Some(Owner { uid: 1234, gid: 1235 });
        Entry { owner, ..entry(path, EntryKind::Directory) }
    };
    let mut host = Host::connected();
    let mut give = |path: &str| write(&mut host, target(folder.path()), &[(theirs(path), b"")]);

    assert!(message(give("link")).starts_with("cannot make the folder"));
    assert_eq!(fs::metadata(&there).unwrap().uid(), 0);
    assert_eq!(give("there"), Answer::Done);
    let owner = |path: &Path| fs::metadata(path).map(|it| (it.uid(), it.gid())).unwrap();
    assert_eq!((owner(&there), owner(&there.join("file"))), ((1234, 1235), (0, 0)));
    assert_eq!(fs::metadata(&there).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn no_entry_leads_out_of_its_tree() {
    let folder = tempdir().unwrap();
    let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
    fs::create_dir(&tree).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, tree.join("link")).unwrap();
    let mut host = Host::connected();
    let mut attempt = |path| message(write(&mut host, with_parents(&tree), &[(file(path), b"x")]));
    assert!(attempt("../outside/x").contains("leads out of its tree"));
    assert!(attempt("/etc/x").contains("leads out of its tree"));
    assert!(attempt("link/x").starts_with("cannot open"));
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_link_at_the_top_is_replaced_not_followed() {
    let folder = tempdir().unwrap();
    let (link, kept) = (folder.path().join("link"), folder.path().join("kept"));
    fs::write(&kept, "kept").unwrap();
    symlink(&kept, &link).unwrap();
    let mut host = Host::connected();
    assert_eq!(write(&mut host, target(&link), &[(file(""), b"new")]), Answer::Done);
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    assert!(fs::symlink_metadata(&link).unwrap().is_file());
}

#[test]
fn a_missing_folder_is_named_unless_it_may_be_made() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("missing/file");
    let mut host = Host::connected();
    let text = message(write(&mut host, target(&path), &[(file(""), b"")]));
    let missing = folder.path().join("missing");
    let expected = format!("cannot open {}: no such file or directory", missing.display());
    assert_eq!(text, expected);
}

/// A file system with almost no free space.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Self {
        host_test::enter_mount_namespace();
        let folder = tempdir().unwrap();
        let arguments = ["-t", "tmpfs", "-o", "size=64k", "none"];
        let status = Command::new("mount").args(arguments).arg(folder.path()).status();
        assert!(status.unwrap().success());
        Self(folder)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The mount ends with its namespace; then the folder can be removed.
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
#[ignore = "needs root"]
fn a_full_disk_is_told_and_leaves_nothing() {
    let disk = SmallDisk::mount();
    let path = disk.0.path().join("file");
    let bytes = vec![1; 128 << 10];
    let mut host = Host::connected();
    let text = message(write(&mut host, target(&path), &[(file(""), &bytes)]));
    let expected = format!("cannot write {}: no space left on device", path.display());
    assert_eq!(text, expected);
    assert_eq!(names(&disk.0), [""; 0]);
}

#[test]
fn a_device_is_not_read() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Read(Read { path: ByteBuf::from("/dev/zero") }));
    let expected = "cannot read /dev/zero: it is a device";
    assert_eq!(message(last(&mut host, id)), expected);
}

#[test]
#[ignore = "needs root"]
fn a_read_that_waits_for_a_file_can_be_cancelled() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Read(Read { path: ByteBuf::from("/proc/kmsg") }));
    assert!(matches!(host.answer_to(id), Answer::Entry(_)));
    host.send(id, HostBody::Cancel);
    assert_eq!(message(last(&mut host, id)), "the request was cancelled");
}

#[test]
fn a_cancelled_write_leaves_nothing() {
    let folder = tempdir().unwrap();
    let mut host = Host::connected();
    let id = host.request(HostBody::Write(target(&folder.path().join("file"))));
    host.send(id, HostBody::Entry(file("")));
    host.send(id, HostBody::Data(b"half"));
    host.send(id, HostBody::Cancel);
    assert_eq!(message(last(&mut host, id)), "the request was cancelled");
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn a_write_cut_by_the_end_of_the_connection_leaves_nothing() {
    let folder = tempdir().unwrap();
    let mut host = Host::connected();
    let id = host.request(HostBody::Write(target(&folder.path().join("file"))));
    host.send(id, HostBody::Entry(file("")));
    host.send(id, HostBody::Data(&vec![1; WINDOW as usize / 2]));
    assert!(matches!(host.answer_to(id), Answer::Credit(_)));
    assert_eq!(names(&folder).len(), 1);
    host.close().unwrap();
    assert_eq!(names(&folder), [""; 0]);
}

#[test]
fn a_large_file_is_read_as_its_credit_allows() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("large");
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(&path, &content).unwrap();
    let mut host = Host::connected();
    let id =
        host.request(HostBody::Read(Read { path: ByteBuf::from(path.as_os_str().as_bytes()) }));
    let Answer::Entry(first) = host.answer_to(id) else {
        panic!("no entry");
    };
    host.send(id, HostBody::Credit(Stream::Stdout, first.cost()));
    let mut read = Vec::new();
    while let Answer::Data(stream, bytes) = host.answer_to(id) {
        host.send(id, HostBody::Credit(stream, bytes.len() as u64));
        read.extend(bytes);
    }
    assert!(read == content);
}

#[test]
fn a_read_without_credit_can_be_cancelled() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("large");
    fs::write(&path, vec![0; 8 << 20]).unwrap();
    let mut host = Host::connected();
    let id =
        host.request(HostBody::Read(Read { path: ByteBuf::from(path.as_os_str().as_bytes()) }));
    assert!(matches!(host.answer_to(id), Answer::Entry(_)));
    host.send(id, HostBody::Cancel);
    assert_eq!(message(last(&mut host, id)), "the request was cancelled");
}

#[test]
fn a_file_of_no_size_is_read() {
    let mut host = Host::connected();
    let id = host.request(HostBody::Read(Read { path: ByteBuf::from("/proc/self/comm") }));
    assert!(matches!(host.answer_to(id), Answer::Entry(_)));
    assert!(matches!(host.answer_to(id), Answer::Data(..)));
    assert_eq!(host.answer_to(id), Answer::Done);
}

#[test]
fn what_cannot_be_sent_fails_and_does_not_block() {
    let folder = tempdir().unwrap();
    nix::unistd::mkfifo(&folder.path().join("fifo"), Mode::S_IRWXU).unwrap();
    let mut host = Host::connected();
    let id = host.request(HostBody::Read(Read {
        path: ByteBuf::from(folder.path().join("fifo").as_os_str().as_bytes()),
    }));
    assert!(message(last(&mut host, id)).ends_with("it is a FIFO"));
}
