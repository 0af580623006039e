//! Extracts an archive from a guest to this host.
//!
//! [`TreeExtractor`] protects the host from hostile paths. This file handles the specifics of
//! archives: the spelling of paths, members that are no file, folder or link, and compression bombs.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rootfs::archive::{Archive, Kind, Member};
use sandbox::{Entry, EntryKind};

use super::extractor::TreeExtractor;
use crate::error::{Error, Result, file};

/// The size of a read, in bytes.
const CHUNK: usize = 64 << 10;

/// The largest content of an archive.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

/// Extracts an archive into an existing folder; existing files of the same name are replaced.
pub(crate) fn unpack(archive: impl Read, folder: &Path, limit: Limit) -> Result<()> {
    let mut archive = Archive::decompress(archive, "the artifact's archive")?;
    let open = File::open(folder).map_err(file("open", folder))?;
    let mut extractor = TreeExtractor::of_archive(open, folder);
    let (mut entries, mut bytes) = (0, 0);
    let mut buffer = vec![0; CHUNK];
    while let Some(member) = archive.next_member()? {
        entries += 1;
        if entries > limit.entries {
            return Err(Error::TooMuch { limit: limit.entries, what: "files, folders and links" });
        }
        if let Some(kind) = special(&member.kind) {
            let path = String::from_utf8_lossy(&member.path);
            log::warn!("{path:?} in the artifact is {kind}: it is not extracted");
            continue;
        }
        let Some(entry) = entry(member)? else { continue };
        extractor.entry(&entry)?;
        let mut body = archive.body();
        loop {
            let count = body.read(&mut buffer).map_err(file("unpack", &entry.path))?;
            if count == 0 {
                break;
            }
            bytes += count as u64;
            if bytes > limit.bytes {
                return Err(Error::TooMuch { limit: limit.bytes, what: "bytes" });
            }
            extractor.data(&buffer[..count])?;
        }
    }
    extractor.finish()
}

/// The name of a kind of member that is skipped.
fn special(kind: &Kind) -> Option<&'static str> {
    match kind {
        Kind::Fifo => Some("a FIFO"),
        Kind::Device => Some("a device"),
        Kind::File | Kind::Directory | Kind::Symlink(_) | Kind::HardLink(_) => None,
    }
}

/// Converts a member; none for the top, which exists.
fn entry(member: Member) -> Result<Option<Entry>> {
    let bytes = member.path.as_slice();
    let bytes = bytes.strip_prefix(b"./").unwrap_or(bytes);
    let path = PathBuf::from(OsStr::from_bytes(bytes.strip_suffix(b"/").unwrap_or(bytes)));
    let kind = match member.kind {
        Kind::Directory if matches!(bytes, b"" | b".") => return Ok(None),
        _ if path.as_os_str().is_empty() => return Err(Error::Escape { path }),
        Kind::File => EntryKind::File { size: member.size },
        Kind::Directory => EntryKind::Directory,
        Kind::Symlink(target) => EntryKind::Symlink { target: OsStr::from_bytes(&target).into() },
        Kind::HardLink(_) => return Err(Error::NotUnpacked { path, kind: "a hard link" }),
        // The caller has skipped these.
        Kind::Fifo | Kind::Device => return Ok(None),
    };
    let modified = i64::try_from(member.mtime).ok();
    Ok(Some(Entry { path, kind, mode: member.mode, owner: None, modified }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use tempfile::TempDir;

    use super::*;

    const AMPLE: Limit = Limit { bytes: 1 << 20, entries: 100 };

    /// One member of a tar archive, valid or not.
    fn member(path: &str, kind: u8, mode: u32, link: &str, data: &[u8]) -> Vec<u8> {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, text: &str| {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        };
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(124, &format!("{:011o}", data.len()));
        put(136, &format!("{:011o}", 1_000_000_000));
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        header[156] = kind;
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let padding = vec![0; data.len().next_multiple_of(512) - data.len()];
        [&header[..], data, &padding].concat()
    }

    fn plain(path: &str, data: &[u8]) -> Vec<u8> {
        member(path, b'0', 0o644, "", data)
    }

    fn folder(path: &str) -> Vec<u8> {
        member(path, b'5', 0o755, "", b"")
    }

    fn link(path: &str, target: &str) -> Vec<u8> {
        member(path, b'2', 0o777, target, b"")
    }

    fn archive(members: &[Vec<u8>]) -> Vec<u8> {
        [members.concat(), vec![0; 1024]].concat()
    }

    /// Extracts into `<temporary>/out`.
    fn unpacked(members: &[Vec<u8>]) -> (TempDir, Result<()>) {
        let temporary = tempfile::tempdir().unwrap();
        let out = temporary.path().join("out");
        fs::create_dir(&out).unwrap();
        let result = unpack(&archive(members)[..], &out, AMPLE);
        (temporary, result)
    }

    #[test]
    fn files_links_and_empty_folders_are_extracted_with_their_modes() {
        let (temporary, result) = unpacked(&[
            folder("./"),
            member("./run.sh", b'0', 0o4750, "", b"#!"),
            member("empty/", b'5', 0o700, "", b""),
            link("link", "/etc/passwd"),
        ]);

        result.unwrap();

        let at = |name: &str| temporary.path().join("out").join(name);
        let script = fs::metadata(at("run.sh")).unwrap();
        assert_eq!((script.mode() & 0o7777, script.mtime()), (0o750, 1_000_000_000));
        assert_eq!(fs::metadata(at("empty")).unwrap().mode() & 0o7777, 0o700);
        assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn a_folder_without_a_member_is_created() {
        let (temporary, result) = unpacked(&[plain("a/b/c", b"x"), plain("a/d", b"y")]);
        result.unwrap();
        let folder = fs::metadata(temporary.path().join("out/a/b")).unwrap();
        assert_eq!(folder.mode() & 0o777, 0o755);
        assert_eq!(fs::read(temporary.path().join("out/a/b/c")).unwrap(), b"x");
    }

    #[test]
    fn a_member_cannot_leave_the_folder_by_its_path() {
        for path in ["../evil", "a/../../evil", "/evil", "a/./b", "a//b", "..", "././x"] {
            let (temporary, result) = unpacked(&[folder("a/"), plain(path, b"x")]);
            assert!(matches!(result, Err(Error::Escape { .. })), "{path}: {result:?}");
            assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_member_cannot_leave_the_folder_through_a_link() {
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().to_str().unwrap();

        let (_made, through_its_own) = unpacked(&[link("a", target), plain("a/evil", b"x")]);
        let (_deep, below) = unpacked(&[link("a", target), plain("a/b/evil", b"x")]);
        let (_again, as_folder) =
            unpacked(&[link("a", target), folder("a/"), plain("a/evil", b"x")]);

        for result in [through_its_own, below, as_folder] {
            assert!(matches!(result, Err(Error::File { .. })), "{result:?}");
        }
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_existing_link_is_replaced_and_not_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let (victim, out) = (temporary.path().join("victim"), temporary.path().join("out"));
        fs::write(&victim, "safe").unwrap();
        fs::create_dir(&out).unwrap();
        symlink(&victim, out.join("file")).unwrap();

        unpack(&archive(&[plain("file", b"new")])[..], &out, AMPLE).unwrap();

        assert_eq!(fs::read(&victim).unwrap(), b"safe");
        assert_eq!(fs::read(out.join("file")).unwrap(), b"new");
    }

    #[test]
    fn devices_and_fifos_are_skipped_and_the_rest_is_extracted() {
        for kind in *b"346" {
            let (temporary, result) =
                unpacked(&[member("x", kind, 0o644, "", b""), plain("after", b"1")]);
            result.unwrap();
            let out = temporary.path().join("out");
            assert!(!out.join("x").exists());
            assert_eq!(fs::read(out.join("after")).unwrap(), b"1");
        }
    }

    #[test]
    fn a_truncated_archive_leaves_no_partial_file() {
        let temporary = tempfile::tempdir().unwrap();
        let bytes = archive(&[plain("file", &[7; 4096])]);

        let result = unpack(&bytes[..2048], temporary.path(), AMPLE);

        assert!(result.is_err());
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_number_of_members_and_their_size_are_limited() {
        let temporary = tempfile::tempdir().unwrap();
        let bytes = archive(&[plain("a", &[7; 100]), plain("b", &[7; 100])]);

        let large = unpack(&bytes[..], temporary.path(), Limit { bytes: 150, entries: 9 });
        let many = unpack(&bytes[..], temporary.path(), Limit { bytes: 999, entries: 1 });

        assert!(matches!(large, Err(Error::TooMuch { limit: 150, .. })));
        assert!(matches!(many, Err(Error::TooMuch { limit: 1, .. })));
    }
}
