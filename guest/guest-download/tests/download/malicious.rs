//! Malicious archives: the task fails and leaves no files.

use guest_test::archive::{Entry, gzip, tar, tar_gz, tar_zst};

use crate::harness::Fixture;

/// Unpacks an archive. Returns whether it was rejected and left no files.
fn is_rejected(archive: Vec<u8>) -> bool {
    let fixture = Fixture::new();
    !fixture.fetch(archive) && fixture.files().is_empty()
}

fn with(evil: Entry<'_>) -> Vec<u8> {
    tar_gz(&[Entry::File("good", b"1", 0o644), evil])
}

#[test]
fn a_path_with_parent_components_is_rejected() {
    assert!(is_rejected(with(Entry::File("a/../../out", b"1", 0o644))));
}

#[test]
fn an_absolute_path_is_rejected() {
    assert!(is_rejected(with(Entry::File("/tmp/guest-download-was-here", b"1", 0o644))));
}

#[test]
fn a_path_through_a_symbolic_link_is_rejected() {
    let entries = [Entry::Link("way", "/tmp"), Entry::File("way/out", b"1", 0o644)];
    assert!(is_rejected(tar_gz(&entries)));
    let entries = [Entry::Link("way", "."), Entry::Folder("way/out/", 0o755)];
    assert!(is_rejected(tar_gz(&entries)));
}

#[test]
fn a_file_replaces_a_link_of_the_same_name() {
    let fixture = Fixture::new();
    let outside = fixture.path("outside");
    std::fs::write(&outside, "mine").unwrap();
    let link = Entry::Link("f", outside.to_str().unwrap());
    assert!(fixture.fetch(tar_gz(&[link, Entry::File("f", b"new", 0o644)])));
    assert_eq!((fixture.text("outside"), fixture.text("x/f")), ("mine".into(), "new".into()));
}

#[test]
fn a_hard_link_out_of_the_target_is_rejected() {
    assert!(is_rejected(with(Entry::HardLink("h", "/etc/passwd"))));
    assert!(is_rejected(with(Entry::HardLink("h", "../../../etc/passwd"))));
    let entries = [Entry::Link("way", "/etc"), Entry::HardLink("h", "way/passwd")];
    assert!(is_rejected(tar_gz(&entries)));
}

#[test]
fn a_device_is_skipped_and_the_rest_is_unpacked() {
    let fixture = Fixture::new();
    let entries = [Entry::Device("null"), Entry::File("after", b"1", 0o644)];
    assert!(fixture.fetch(tar_gz(&entries)));
    assert_eq!(fixture.files(), ["x", "x/after"]);
}

#[test]
fn data_that_is_no_archive_is_rejected() {
    assert!(is_rejected(b"<html>not found</html>".to_vec()));
    assert!(is_rejected(gzip(&[b'x'; 4096])));
    assert!(is_rejected(tar(&[Entry::File("plain", b"1", 0o644)])));
    assert!(is_rejected(Vec::new()));
}

#[test]
fn a_file_in_place_of_a_parent_folder_is_rejected() {
    let entries = [Entry::File("a", b"1", 0o644), Entry::File("a/b", b"1", 0o644)];
    assert!(is_rejected(tar_gz(&entries)));
    let entries = [Entry::Folder("a/", 0o755), Entry::File("a", b"1", 0o644)];
    assert!(is_rejected(tar_gz(&entries)));
}

#[test]
fn a_compression_bomb_is_rejected_early() {
    let zeros = vec![0; 80 << 20];
    let bomb = tar_zst(&[Entry::File("zeros", &zeros, 0o644)]);
    assert!(bomb.len() < 1 << 20);
    assert!(is_rejected(bomb));
}

#[test]
fn an_entry_of_an_absurd_size_is_rejected() {
    let mut archive = tar(&[Entry::File("f", b"1", 0o644)]);
    // The size in base 256: 2^62.
    archive[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]);
    let sum: u32 =
        (0..512).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(archive[at]) }).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(is_rejected(gzip(&archive)));
}

#[test]
fn a_name_over_the_limit_is_rejected() {
    let name = vec![b'a'; 2 << 20];
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(name.len() as u64);
    header.set_cksum();
    builder.append(&header, &name[..]).unwrap();
    assert!(is_rejected(gzip(&builder.into_inner().unwrap())));
}

#[test]
fn a_wrong_gzip_checksum_fails_the_task() {
    let mut archive = tar_gz(&[Entry::File("f", b"1", 0o644)]);
    let checksum = archive.len() - 8;
    archive[checksum] ^= 1;
    assert!(is_rejected(archive));
}

#[test]
fn a_randomly_damaged_archive_never_panics() {
    let good = tar(&[Entry::File("f", &[7; 3000], 0o644), Entry::Link("l", "f")]);
    for at in (0..good.len()).step_by(37) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        Fixture::new().fetch(gzip(&bad));
    }
}
