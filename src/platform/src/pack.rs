//! A folder as an archive: walked, hashed and packed in one pass, so that the hashes are those of
//! what is packed.
//!
//! Links are kept as links and never followed; empty folders and modes are kept; what is named
//! `.vm0` belongs to the platform and is left out. Sockets, FIFOs and devices hold no content: they
//! are skipped with a warning. What cannot be read is an error. Parts of git repositories that are elsewhere are brought.

mod git;

use std::fs::{self, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base::hex;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use crate::error::file;
use crate::{Error, FileEntry, Result};

const SKIPPED: &str = ".vm0";

/// A packed folder.
pub(crate) struct Packed {
    /// A tar archive, compressed with gzip, at its beginning.
    pub(crate) archive: File,
    pub(crate) size: u64,
    pub(crate) hash: String,
    /// Its regular files.
    pub(crate) files: Vec<FileEntry>,
}

/// Packs what is in a folder; the same content gives the same bytes.
pub(crate) fn pack(folder: &Path) -> Result<Packed> {
    let target = tempfile::tempfile().map_err(file("create a file in", &std::env::temp_dir()))?;
    let fail = file("pack", folder);
    let hashing = Hashing { inner: target, hasher: Sha256::new(), size: 0 };
    let root = fs::canonicalize(folder).map_err(file("read", folder))?;
    git::tell_repository_above(&root);
    let mut packer = Packer {
        root,
        notes: git::Notes::default(),
        builder: Builder::new(GzEncoder::new(hashing, Compression::fast())),
        files: Vec::new(),
    };
    packer.folder(folder, "")?;
    packer.notes.tell(folder);
    let finished = packer.builder.into_inner().and_then(GzEncoder::finish);
    let rewound = finished.and_then(|mut packed| {
        packed.inner.seek(SeekFrom::Start(0))?;
        Ok(packed)
    });
    let Hashing { inner, hasher, size } = rewound.map_err(fail)?;
    Ok(Packed { archive: inner, size, hash: hex::encode(&hasher.finalize()), files: packer.files })
}

struct Packer {
    /// The folder, without links.
    root: PathBuf,
    notes: git::Notes,
    builder: Builder<GzEncoder<Hashing<File>>>,
    files: Vec<FileEntry>,
}

impl Packer {
    /// Packs what is in the folder at `path`; `prefix` is its name in the archive, with a `/`.
    fn folder(&mut self, path: &Path, prefix: &str) -> Result<()> {
        let entries = fs::read_dir(path).map_err(file("read", path))?;
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.map_err(file("read", path))?.file_name());
        }
        names.sort_unstable();
        for name in names {
            let path = path.join(&name);
            let name = name.to_str().ok_or_else(|| Error::NotUtf8 { path: path.clone() })?;
            if name != SKIPPED {
                self.entry(&path, &format!("{prefix}{name}"))?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, name: &str) -> Result<()> {
        if path.file_name().is_some_and(|name| name == ".git") && self.git(path, name)? {
            return Ok(());
        }
        let metadata = fs::symlink_metadata(path).map_err(file("read", path))?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            self.directory(name, &metadata).map_err(file("pack", path))?;
            self.folder(path, &format!("{name}/"))
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(file("read", path))?;
            let mut header = header(&metadata, EntryType::Symlink, 0);
            self.link(&mut header, name, &target).map_err(file("pack", path))
        } else if kind.is_file() {
            self.file(path, name)
        } else {
            log::warn!("{} is {}: it is not packed", path.display(), special(kind));
            Ok(())
        }
    }

    /// Adds a link with its target as it is: the library would tidy `a//b` up. It may do so with a
    /// target that does not fit into the header.
    fn link(&mut self, header: &mut Header, name: &str, target: &Path) -> io::Result<()> {
        let bytes = target.as_os_str().as_bytes();
        if bytes.len() > header.as_old().linkname.len() {
            return self.builder.append_link(header, name, target);
        }
        header.set_link_name_literal(bytes)?;
        self.builder.append_data(header, name, io::empty())
    }

    fn directory(&mut self, name: &str, metadata: &Metadata) -> io::Result<()> {
        let mut header = header(metadata, EntryType::Directory, 0);
        self.builder.append_data(&mut header, format!("{name}/"), io::empty())
    }

    /// A file of another content than it has on the disk.
    fn text(&mut self, name: &str, text: &str, metadata: &Metadata) -> Result<()> {
        let size = text.len() as u64;
        let mut header = header(metadata, EntryType::Regular, size);
        header.set_mode(0o644);
        let added = self.builder.append_data(&mut header, name, text.as_bytes());
        added.map_err(file("pack", Path::new(name)))?;
        let hash = hex::encode(&Sha256::digest(text));
        self.files.push(FileEntry { path: name.to_owned(), hash, size });
        Ok(())
    }

    fn file(&mut self, path: &Path, name: &str) -> Result<()> {
        let mut options = OpenOptions::new();
        // What is a link or a pipe by now is neither followed nor waited for.
        let flags = nix::fcntl::OFlag::O_NOFOLLOW | nix::fcntl::OFlag::O_NONBLOCK;
        let options = options.read(true).custom_flags(flags.bits());
        let mut open = options.open(path).map_err(file("open", path))?;
        let metadata = open.metadata().map_err(file("read", path))?;
        let size = metadata.len();
        self.notes.look(name, &open, size);
        let mut content = Hashing { inner: (&mut open).take(size), hasher: Sha256::new(), size: 0 };
        let mut header = header(&metadata, EntryType::Regular, size);
        let added = self.builder.append_data(&mut header, name, &mut content);
        added.map_err(file("pack", path))?;
        let (packed, hash) = (content.size, hex::encode(&content.hasher.finalize()));
        let more = open.read(&mut [0]).map_err(file("read", path))?;
        if packed != size || more != 0 {
            return Err(Error::Changed { path: path.to_owned() });
        }
        self.files.push(FileEntry { path: name.to_owned(), hash, size });
        Ok(())
    }
}

/// What to call a file that has no content of its own.
fn special(kind: FileType) -> &'static str {
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a FIFO"
    } else {
        "a device"
    }
}

fn header(metadata: &Metadata, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(metadata.mode() & 0o777);
    header.set_mtime(u64::try_from(metadata.mtime()).unwrap_or(0));
    header.set_size(size);
    header
}

/// Counts and hashes what passes.
struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    size: u64,
}

impl<T> Hashing<T> {
    fn pass(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.pass(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.pass(bytes.get(..count).unwrap_or_default());
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
    fn folders_modes_and_links_are_kept_and_our_own_left_out() {
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
