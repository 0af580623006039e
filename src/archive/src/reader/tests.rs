use super::*;
use crate::EntryKind;
use crate::testing::TarBuilder;

fn members(bytes: &[u8]) -> Result<Vec<Entry>> {
    let mut archive = Reader::new(bytes, Limits::default());
    let mut members = Vec::new();
    while let Some(member) = archive.next_entry()? {
        members.push(member);
    }
    Ok(members)
}

#[test]
fn members_are_read_with_their_attributes() {
    let bytes = TarBuilder::new().file("etc/passwd", "root").symlink("bin", "usr/bin").finish();

    let members = members(&bytes).unwrap();

    assert_eq!(members[0].path, b"etc/passwd");
    assert_eq!((members[0].kind == EntryKind::File, members[0].size), (true, 4));
    assert_eq!((members[0].mode, members[0].mtime), (0o644, 1_000));
    assert_eq!(members[1].kind, EntryKind::Symlink(b"usr/bin".to_vec()));
}

#[test]
fn body_has_the_bytes_of_its_member_only() {
    let bytes = TarBuilder::new().file("a", "first").file("b", "second").finish();
    let mut archive = Reader::new(&bytes[..], Limits::default());
    archive.next_entry().unwrap();
    archive.next_entry().unwrap();

    let mut text = String::new();
    archive.body().read_to_string(&mut text).unwrap();

    assert_eq!(text, "second");
}

#[test]
fn long_names_are_read_whole() {
    let name = "d/".repeat(120) + "file";
    let bytes = TarBuilder::new().file(&name, "x").finish();

    assert_eq!(members(&bytes).unwrap()[0].path, name.as_bytes());
}

#[test]
fn pax_records_may_hold_any_byte() {
    let capability = b"\x01\n=\x00 5";
    let bytes = TarBuilder::new()
        .pax("SCHILY.xattr.security.capability", capability)
        .file("a", "")
        .finish();

    let xattrs = &members(&bytes).unwrap()[0].xattrs;

    assert_eq!(xattrs, &[("security.capability".to_owned(), capability.to_vec())]);
}

#[test]
fn pax_path_and_owner_win_over_the_header() {
    let bytes = TarBuilder::new().pax("path", b"real").pax("uid", b"70000").file("x", "").finish();

    let member = &members(&bytes).unwrap()[0];

    assert_eq!((&member.path[..], member.uid), (&b"real"[..], 70_000));
}

#[test]
fn blank_owner_is_root() {
    let bytes = TarBuilder::new().file("a", "").finish();

    let member = &members(&bytes).unwrap()[0];

    assert_eq!((&bytes[108..116], member.uid, member.gid), (&[0; 8][..], 0, 0));
}

#[test]
fn archive_cut_inside_a_member_is_an_error() {
    let bytes = TarBuilder::new().file("a", &"x".repeat(4_000)).finish();

    assert!(matches!(members(&bytes[..2_000]), Err(Error::Read { .. })));
}

#[test]
fn archive_cut_before_its_end_mark_is_an_error() {
    let bytes = TarBuilder::new().file("a", "x").finish();

    assert!(matches!(members(&bytes[..1_024]), Err(Error::Read { .. })));
}

#[test]
fn damaged_header_is_an_error() {
    let mut bytes = TarBuilder::new().file("a", "x").finish();
    bytes[100] ^= 1;

    let error = members(&bytes).unwrap_err();

    assert!(matches!(error, Error::Checksum { position: 0 }));
}

#[test]
fn sparse_file_is_refused() {
    let bytes = TarBuilder::new().pax("GNU.sparse.major", b"1").file("a", "x").finish();

    let error = members(&bytes).unwrap_err();

    assert!(matches!(error, Error::Sparse));
}

#[test]
fn oversized_extension_is_refused_without_reading_it() {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(1 << 40);
    header.set_cksum();

    let error = members(header.as_bytes()).unwrap_err();

    assert!(matches!(error, Error::Extension { .. }));
}

#[test]
fn many_extensions_of_one_member_are_refused_like_a_large_one() {
    let half = vec![b'x'; 600 << 10];
    let bytes = TarBuilder::new().pax("a", &half).pax("b", &half).file("f", "").finish();

    let error = members(&bytes).unwrap_err();

    assert!(matches!(error, Error::Extension { .. }));
}

#[test]
fn size_that_no_archive_has_is_an_error() {
    let size = u64::MAX.to_string();
    let bytes = TarBuilder::new().pax("size", size.as_bytes()).file("a", "x").finish();

    assert!(matches!(members(&bytes), Err(Error::TooLarge { .. })));
}

#[test]
fn noise_is_an_error_and_not_a_panic() {
    let noise: Vec<u8> =
        (0..4_096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();

    assert!(members(&noise).is_err());
}
