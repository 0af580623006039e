//! Packs a folder into an archive. Each file is read once, so its hash is that of the packed
//! content.
//!
//! Links are stored as links and never followed; empty folders and modes are stored; entries named
//! `.vm0` belong to the platform and are left out. Sockets, FIFOs and devices have no content: they
//! are skipped with a warning. An unreadable file is an error. Parts of git repositories outside
//! the folder are added.

mod git;

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use archive::{Descend, PackedFile, Packer, Unreadable, Visitor, WalkEntry, WalkKind, open_source};
use base::hex;
use sha2::{Digest, Sha256};

use crate::error::file;
use crate::{Error, FileEntry, Result};

const SKIPPED: &str = ".vm0";

/// A packed folder.
pub(crate) struct Packed {
    /// The tar archive, compressed with gzip, at its beginning.
    pub(crate) archive: File,
    pub(crate) size: u64,
    pub(crate) hash: String,
    /// Its regular files.
    pub(crate) files: Vec<FileEntry>,
}

/// Packs the content of a folder. The same content gives the same bytes.
pub(crate) fn pack(folder: &Path) -> Result<Packed> {
    let target = tempfile::tempfile().map_err(file("create a file in", &std::env::temp_dir()))?;
    let hashing = Hashing { inner: target, hasher: Sha256::new(), size: 0 };
    let root = fs::canonicalize(folder).map_err(file("read", folder))?;
    git::tell_repository_above(&root);
    let mut packer = FolderPacker {
        folder,
        root,
        notes: git::Notes::default(),
        archive: Packer::new(hashing),
        files: Vec::new(),
    };
    archive::walk(folder, &[SKIPPED.to_owned()], &mut packer)?;
    packer.notes.tell(folder);
    let Hashing { mut inner, hasher, size } = packer.archive.finish().map_err(failed(folder))?;
    inner.seek(SeekFrom::Start(0)).map_err(file("pack", folder))?;
    Ok(Packed { archive: inner, size, hash: hex::encode(&hasher.finalize()), files: packer.files })
}

struct FolderPacker<'a> {
    folder: &'a Path,
    /// The folder, without links.
    root: PathBuf,
    notes: git::Notes,
    archive: Packer<Hashing<File>>,
    files: Vec<FileEntry>,
}

impl Visitor for FolderPacker<'_> {
    type Error = Error;

    fn entry(&mut self, found: WalkEntry) -> Result<Descend> {
        let path = self.folder.join(&found.path);
        if path.file_name().is_some_and(|name| name == ".git") && self.git(&path, &found.path)? {
            return Ok(Descend::No);
        }
        match found.kind {
            WalkKind::Folder { .. } => self.directory(&path, &found.path, &found.metadata)?,
            WalkKind::Link { target } => {
                let added = self.archive.symlink(&found.path, &target, &found.metadata);
                added.map_err(failed(&path))?;
            }
            WalkKind::File => self.file(&path, &found.path)?,
        }
        Ok(Descend::Yes)
    }

    fn unreadable(&mut self, path: &Path, reason: Unreadable) -> Result<()> {
        let path = self.folder.join(path);
        Err(match reason {
            Unreadable::Entry(source) | Unreadable::Folder(source) => file("read", &path)(source),
            Unreadable::NotUtf8 => Error::NotUtf8 { path },
            Unreadable::TooDeep => Error::TooDeep { path },
        })
    }
}

impl FolderPacker<'_> {
    fn directory(&mut self, path: &Path, name: &str, metadata: &Metadata) -> Result<()> {
        self.archive.directory(name, metadata).map_err(failed(path))
    }

    /// Adds a file with another content than it has on the disk.
    fn text(&mut self, name: &str, text: &str, metadata: &Metadata) -> Result<()> {
        let packed = self.archive.text(name, text, metadata).map_err(failed(Path::new(name)))?;
        self.list(packed);
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &str) -> Result<()> {
        let mut open = open_source(path).map_err(file("open", path))?;
        let metadata = open.metadata().map_err(file("read", path))?;
        self.notes.look(name, &open, metadata.len());
        let packed = self.archive.file(name, &mut open, &metadata).map_err(failed(path))?;
        if open.read(&mut [0]).map_err(file("read", path))? != 0 {
            return Err(Error::Changed { path: path.to_owned() });
        }
        self.list(packed);
        Ok(())
    }

    fn list(&mut self, packed: PackedFile) {
        let PackedFile { path, digest, size } = packed;
        self.files.push(FileEntry { path, hash: hex::encode(&digest), size });
    }
}

/// Names the file that could not be packed.
fn failed(path: &Path) -> impl FnOnce(archive::Error) -> Error {
    move |error| match error {
        archive::Error::Write { source } | archive::Error::ReadSource { source } => {
            file("pack", path)(source)
        }
        archive::Error::Truncated => Error::Changed { path: path.to_owned() },
        other => file("pack", path)(io::Error::other(other)),
    }
}

/// Counts and hashes what is written.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use flate2::read::GzDecoder;

    use super::*;

    fn listed(packed: Packed) -> Vec<String> {
        let mut archive = tar::Archive::new(GzDecoder::new(packed.archive));
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            let link = entry.link_name().unwrap().map(|link| format!(" -> {}", link.display()));
            let mode = header.mode().unwrap();
            format!("{} {mode:o}{}", entry.path().unwrap().display(), link.unwrap_or_default())
        });
        entries.collect()
    }

    #[test]
    fn folders_modes_and_links_are_packed_and_vm0_folders_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("empty")).unwrap();
        fs::create_dir_all(at("a/.vm0")).unwrap();
        fs::write(at("a/run.sh"), "x").unwrap();
        fs::write(at("a/.vm0/state"), "x").unwrap();
        symlink("/etc/passwd", at("link")).unwrap();
        symlink("./a//b/", at("odd")).unwrap();
        for (name, mode) in [("empty", 0o700), ("a", 0o755), ("a/run.sh", 0o750)] {
            fs::set_permissions(at(name), PermissionsExt::from_mode(mode)).unwrap();
        }

        let packed = pack(dir.path()).unwrap();

        let hash = hex::encode(&Sha256::digest("x"));
        assert_eq!(packed.files, [FileEntry { path: "a/run.sh".into(), hash, size: 1 }]);
        let expected = [
            "a/ 755",
            "a/run.sh 750",
            "empty/ 700",
            "link 777 -> /etc/passwd",
            "odd 777 -> ./a//b/",
        ]
        .map(String::from);
        assert_eq!(listed(packed), expected);
    }

    #[test]
    fn the_same_folder_gives_the_same_bytes_and_their_hash() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("b"), "1").unwrap();
        fs::write(dir.path().join("a"), "2").unwrap();

        let mut one = pack(dir.path()).unwrap();
        let other = pack(dir.path()).unwrap();

        let mut bytes = Vec::new();
        one.archive.read_to_end(&mut bytes).unwrap();
        assert_eq!((&one.hash, one.size), (&other.hash, bytes.len() as u64));
        assert_eq!(one.hash, hex::encode(&Sha256::digest(&bytes)));
    }

    #[test]
    fn sockets_and_fifos_are_skipped_and_the_rest_is_packed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _socket = std::os::unix::net::UnixListener::bind(at("a-socket")).unwrap();
        nix::unistd::mkfifo(&at("b-fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        fs::write(at("c-file"), "x").unwrap();
        fs::set_permissions(at("c-file"), PermissionsExt::from_mode(0o644)).unwrap();

        assert_eq!(listed(pack(dir.path()).unwrap()), ["c-file 644"]);
    }
}
