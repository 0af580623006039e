//! Packs a tree into a squashfs file: written as a tar stream into `mksquashfs`,
//! so the tree's owners, links and names never exist on the host. The same tree
//! gives the same file.

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use tar::{Builder, EntryType, Header};

use crate::error::{Error, Result};
use crate::progress::Meter;
use crate::stage::Stage;
use crate::tool::{MKSQUASHFS, Streams};
use crate::tree::{Inode, Meta, Node, Tree};

/// Of 22. A level of 15 makes the file 7 % smaller and takes eight times as long.
const LEVEL: &str = "6";

/// The attributes that squashfs can store.
const XATTR_PREFIXES: [&str; 3] = ["user.", "trusted.", "security."];

/// The most of a name or link target that a tar header itself holds.
const FIELD: usize = 100;

/// Writes the tree to the new file `to`.
pub(crate) fn pack(tree: &Tree, to: &Path, stage: &Stage, meter: &mut Meter<'_>) -> Result<()> {
    let Meta { mode, uid, gid, .. } = tree.root();
    let mut command = MKSQUASHFS.command();
    command
        // No file is newer, so this changes none: it is the time of the file system
        // and of its root, which a stream cannot give and which would be now.
        .env("SOURCE_DATE_EPOCH", newest(tree)?.to_string())
        .arg("-")
        .arg(to)
        .args(["-tar", "-noappend", "-quiet", "-no-progress", "-comp", "zstd"])
        .args(["-Xcompression-level", LEVEL])
        .args(["-root-mode", &format!("{mode:o}")])
        .args(["-root-uid", &uid.to_string(), "-root-gid", &gid.to_string()]);
    let mut running = MKSQUASHFS.start(command, Streams::Input, stage)?;
    meter.expect(tree.bytes());
    let written = match running.stdin() {
        Some(stdin) => write(tree, BufWriter::with_capacity(1 << 16, stdin), meter),
        None => Ok(()),
    };
    // A tool that ended early says why; the broken pipe only says that it did.
    match written {
        Err(error @ Error::WriteTool { .. }) => Err(running.finish().err().unwrap_or(error)),
        Err(error) => Err(error),
        Ok(()) => running.finish(),
    }
}

/// The time of the newest file.
fn newest(tree: &Tree) -> Result<u64> {
    let mut newest = 0;
    tree.walk(&mut |_, _, inode| {
        newest = newest.max(seconds(&inode.meta));
        Ok(())
    })?;
    Ok(newest)
}

/// A file's time as squashfs can store it: in 32 bits.
fn seconds(meta: &Meta) -> u64 {
    meta.mtime.min(u32::MAX.into())
}

fn write(tree: &Tree, out: impl Write, meter: &mut Meter<'_>) -> Result<()> {
    let mut stream = Stream { tar: Builder::new(out), tree, names: HashMap::new() };
    tree.walk(&mut |path, number, inode| {
        stream.entry(path, number, inode)?;
        if let Node::File(extent) = &inode.node {
            meter.add(extent.length);
        }
        Ok(())
    })?;
    stream.tar.into_inner().and_then(|mut out| out.flush()).map_err(broken)
}

/// The tar stream so far; `names` has the first name of each inode.
struct Stream<'a, W: Write> {
    tar: Builder<W>,
    tree: &'a Tree,
    names: HashMap<usize, Vec<u8>>,
}

impl<W: Write> Stream<'_, W> {
    fn entry(&mut self, path: &[u8], number: usize, inode: &Inode) -> Result<()> {
        if let Some(first) = self.names.get(&number).cloned() {
            let unchanged = Meta::default();
            return self.append(Entry::new(path, EntryType::Link, &first), &unchanged, io::empty());
        }
        let meta = &inode.meta;
        match &inode.node {
            Node::Directory(_) => {
                return self.append(Entry::new(path, EntryType::Directory, b""), meta, io::empty());
            }
            Node::File(extent) => {
                let entry = Entry::new(path, EntryType::Regular, b"");
                let bytes = self.tree.open(*extent)?;
                self.append(Entry { size: extent.length, ..entry }, meta, bytes)?;
            }
            Node::Symlink(target) => {
                self.append(Entry::new(path, EntryType::Symlink, target), meta, io::empty())?;
            }
            Node::Fifo => {
                self.append(Entry::new(path, EntryType::Fifo, b""), meta, io::empty())?;
            }
        }
        self.names.insert(number, path.to_vec());
        Ok(())
    }

    fn append(&mut self, entry: Entry<'_>, meta: &Meta, content: impl Read) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(entry.kind);
        header.set_mode(meta.mode);
        header.set_uid(meta.uid.into());
        header.set_gid(meta.gid.into());
        header.set_mtime(seconds(meta));
        header.set_size(entry.size);
        let mut records = Vec::new();
        for (name, value) in &meta.xattrs {
            if XATTR_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                records.push((format!("SCHILY.xattr.{name}"), value.as_slice()));
            }
        }
        let fields = header.as_old_mut();
        if !fill(&mut fields.name, entry.path) {
            records.push(("path".to_owned(), entry.path));
        }
        if !fill(&mut fields.linkname, entry.target) {
            records.push(("linkpath".to_owned(), entry.target));
        }
        header.set_cksum();
        let records = records.iter().map(|(key, value)| (key.as_str(), *value));
        self.tar.append_pax_extensions(records).map_err(broken)?;
        self.tar.append(&header, content).map_err(broken)
    }
}

/// What a header says beside attributes.
struct Entry<'a> {
    path: &'a [u8],
    kind: EntryType,
    target: &'a [u8],
    size: u64,
}

impl<'a> Entry<'a> {
    fn new(path: &'a [u8], kind: EntryType, target: &'a [u8]) -> Entry<'a> {
        Entry { path, kind, target, size: 0 }
    }
}

/// Copies what fits; says whether all did.
fn fill(field: &mut [u8; FIELD], bytes: &[u8]) -> bool {
    let count = bytes.len().min(FIELD);
    field[..count].copy_from_slice(&bytes[..count]);
    bytes.len() <= FIELD
}

fn broken(source: io::Error) -> Error {
    Error::WriteTool { tool: MKSQUASHFS.name, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::members::{Archive, Kind, Member};
    use crate::progress::{Origin, Reporter, Step};
    use crate::testing::tree;
    use crate::tree::Content;

    /// What the stream of a tree says when it is read again.
    fn members(tree: &Tree) -> Vec<Member> {
        let mut bytes = Vec::new();
        Reporter::new(&mut |_| ())
            .step(Step::Pack, |meter| Ok((write(tree, &mut bytes, meter)?, Origin::Made)))
            .unwrap();
        let mut archive = Archive::new(&bytes[..], "stream");
        std::iter::from_fn(|| archive.next_member().unwrap()).collect()
    }

    #[test]
    fn attributes_and_long_names_go_into_the_stream() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let name = "d/".repeat(80) + "f";
        let xattrs = vec![
            ("security.capability".to_owned(), b"\n\x00=".to_vec()),
            ("system.posix_acl_access".to_owned(), b"x".to_vec()),
        ];
        let meta = Meta { mode: 0o4755, uid: 3_000_000, gid: 7, mtime: 1 << 40, xattrs };
        tree.add(name.as_bytes(), meta, Content::File(&mut &b"12345"[..])).unwrap();

        let members = members(&tree);

        let file = members.last().unwrap();
        assert_eq!(file.path, name.as_bytes());
        assert_eq!((file.mode, file.uid, file.gid, file.size), (0o4755, 3_000_000, 7, 5));
        assert_eq!(file.mtime, u64::from(u32::MAX));
        assert_eq!(file.xattrs, [("security.capability".to_owned(), b"\n\x00=".to_vec())]);
    }

    #[test]
    fn the_second_link_of_a_file_is_written_as_a_hard_link() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        tree.add(b"z", Meta::default(), Content::File(&mut &b"1"[..])).unwrap();
        tree.add(b"a", Meta::default(), Content::HardLink(b"z")).unwrap();

        let members = members(&tree);

        assert_eq!((&members[0].path[..], &members[0].kind), (&b"a"[..], &Kind::File));
        assert_eq!(members[1].kind, Kind::HardLink(b"a".to_vec()));
    }
}
