//! Extracts a job's archive to this host.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use archive::{ExtractOptions, Limits, Ownership, Reader, TreeExtractor};

use crate::error::{Result, file};

/// Extracts an archive, compressed or not, into an existing folder. Existing files of the same name are
/// replaced.
pub(crate) fn unpack(archive: impl Read, folder: &Path, limits: Limits) -> Result<()> {
    let archive = BufReader::new(rootfs::decompress(archive, "the artifact's archive")?);
    let open = File::open(folder).map_err(file("open", folder))?;
    let options = ExtractOptions {
        ownership: Ownership::Inherited,
        any_order: true,
        ..ExtractOptions::default()
    };
    let extractor = TreeExtractor::into(open, folder, options);
    archive::unpack(Reader::new(archive, limits), extractor)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use tempfile::TempDir;

    use super::*;
    use crate::error::Error;

    fn limits(bytes: u64, entries: u64) -> Limits {
        Limits { bytes, entries, ..Limits::default() }
    }

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
        let result = unpack(&archive(members)[..], &out, limits(1 << 20, 100));
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
            assert!(
                matches!(result, Err(Error::Extract { source: archive::Error::Escape { .. } })),
                "{path}: {result:?}"
            );
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
            assert!(
                matches!(result, Err(Error::Extract { source: archive::Error::File { .. } })),
                "{result:?}"
            );
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

        unpack(&archive(&[plain("file", b"new")])[..], &out, limits(1 << 20, 100)).unwrap();

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

        let result = unpack(&bytes[..2048], temporary.path(), limits(1 << 20, 100));

        assert!(result.is_err());
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_number_of_members_and_their_size_are_limited() {
        let temporary = tempfile::tempdir().unwrap();
        let bytes = archive(&[plain("a", &[7; 100]), plain("b", &[7; 100])]);

        let large = unpack(&bytes[..], temporary.path(), limits(150, 9));
        let many = unpack(&bytes[..], temporary.path(), limits(999, 1));

        assert!(matches!(
            large,
            Err(Error::Extract { source: archive::Error::TooLarge { limit: 150, .. } })
        ));
        assert!(matches!(
            many,
            Err(Error::Extract { source: archive::Error::TooLarge { limit: 1, .. } })
        ));
    }
}
