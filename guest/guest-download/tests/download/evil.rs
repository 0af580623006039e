//! Archives that were made to do harm: the task fails, and nothing of them is left.

use guest_test::archive::{Entry, gzip, tar, tar_gz, tar_zst};

use crate::harness::Place;

/// Unpacks it; says whether it was refused and left nothing.
fn is_refused(archive: Vec<u8>) -> bool {
    let place = Place::new();
    !place.fetch(archive) && place.files().is_empty()
}

fn with(evil: Entry<'_>) -> Vec<u8> {
    tar_gz(&[Entry::File("good", b"1", 0o644), evil])
}

#[test]
fn a_path_that_climbs_out_is_refused() {
    assert!(is_refused(with(Entry::File("a/../../out", b"1", 0o644))));
}

#[test]
fn an_absolute_path_is_refused() {
    assert!(is_refused(with(Entry::File("/tmp/guest-download-was-here", b"1", 0o644))));
}

#[test]
fn a_path_through_a_link_is_refused() {
    let entries = [Entry::Link("way", "/tmp"), Entry::File("way/out", b"1", 0o644)];
    assert!(is_refused(tar_gz(&entries)));
    let entries = [Entry::Link("way", "."), Entry::Folder("way/out/", 0o755)];
    assert!(is_refused(tar_gz(&entries)));
}

#[test]
fn a_link_is_replaced_rather_than_written_through() {
    let place = Place::new();
    let outside = place.path("outside");
    std::fs::write(&outside, "mine").unwrap();
    let link = Entry::Link("f", outside.to_str().unwrap());
    assert!(place.fetch(tar_gz(&[link, Entry::File("f", b"new", 0o644)])));
    assert_eq!((place.text("outside"), place.text("x/f")), ("mine".into(), "new".into()));
}

#[test]
fn a_hard_link_that_leaves_is_refused() {
    assert!(is_refused(with(Entry::HardLink("h", "/etc/passwd"))));
    assert!(is_refused(with(Entry::HardLink("h", "../../../etc/passwd"))));
    let entries = [Entry::Link("way", "/etc"), Entry::HardLink("h", "way/passwd")];
    assert!(is_refused(tar_gz(&entries)));
}

#[test]
fn a_device_is_skipped_and_the_rest_is_unpacked() {
    let place = Place::new();
    let entries = [Entry::Device("null"), Entry::File("after", b"1", 0o644)];
    assert!(place.fetch(tar_gz(&entries)));
    assert_eq!(place.files(), ["x", "x/after"]);
}

#[test]
fn what_is_no_archive_is_refused() {
    assert!(is_refused(b"<html>not found</html>".to_vec()));
    assert!(is_refused(gzip(&[b'x'; 4096])));
    assert!(is_refused(tar(&[Entry::File("plain", b"1", 0o644)])));
    assert!(is_refused(Vec::new()));
}

#[test]
fn a_file_where_a_folder_is_needed_is_refused() {
    let entries = [Entry::File("a", b"1", 0o644), Entry::File("a/b", b"1", 0o644)];
    assert!(is_refused(tar_gz(&entries)));
    let entries = [Entry::Folder("a/", 0o755), Entry::File("a", b"1", 0o644)];
    assert!(is_refused(tar_gz(&entries)));
}

#[test]
fn a_bomb_is_refused_long_before_it_is_unpacked() {
    let zeros = vec![0; 80 << 20];
    let bomb = tar_zst(&[Entry::File("zeros", &zeros, 0o644)]);
    assert!(bomb.len() < 1 << 20);
    assert!(is_refused(bomb));
}

#[test]
fn a_size_beyond_all_disks_is_refused() {
    let mut archive = tar(&[Entry::File("f", b"1", 0o644)]);
    // The size in base 256: 2^62.
    archive[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]);
    let sum: u32 =
        (0..512).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(archive[at]) }).sum();
    archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert!(is_refused(gzip(&archive)));
}

#[test]
fn a_name_of_endless_length_is_refused() {
    let name = vec![b'a'; 2 << 20];
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(name.len() as u64);
    header.set_cksum();
    builder.append(&header, &name[..]).unwrap();
    assert!(is_refused(gzip(&builder.into_inner().unwrap())));
}

#[test]
fn a_wrong_checksum_of_the_compression_is_a_failure_though_all_files_are_there() {
    let mut archive = tar_gz(&[Entry::File("f", b"1", 0o644)]);
    let checksum = archive.len() - 8;
    archive[checksum] ^= 1;
    assert!(is_refused(archive));
}

#[test]
fn random_damage_never_panics() {
    let good = tar(&[Entry::File("f", &[7; 3000], 0o644), Entry::Link("l", "f")]);
    for at in (0..good.len()).step_by(37) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        Place::new().fetch(gzip(&bad));
    }
}
