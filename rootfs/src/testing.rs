//! What the tests of several modules need: small archives made by hand, and trees.

use std::path::Path;

use tar::{Builder, EntryType, Header};

use crate::tree::{Limits, Node, Tree};

/// Writes tar archives, those that a sane program would not write too.
pub(crate) struct TarBuilder(Builder<Vec<u8>>);

impl TarBuilder {
    pub(crate) fn new() -> TarBuilder {
        TarBuilder(Builder::new(Vec::new()))
    }

    pub(crate) fn file(self, path: &str, text: &str) -> TarBuilder {
        self.entry(EntryType::Regular, path, "", text.as_bytes())
    }

    pub(crate) fn program(self, path: &str, text: &str) -> TarBuilder {
        self.add(EntryType::Regular, (path, 0o755), "", text.as_bytes())
    }

    pub(crate) fn bytes(self, path: &str, bytes: &[u8]) -> TarBuilder {
        self.entry(EntryType::Regular, path, "", bytes)
    }

    pub(crate) fn dir(self, path: &str) -> TarBuilder {
        self.entry(EntryType::Directory, path, "", b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> TarBuilder {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> TarBuilder {
        self.entry(EntryType::Link, path, target, b"")
    }

    pub(crate) fn device(self, path: &str) -> TarBuilder {
        self.entry(EntryType::Char, path, "", b"")
    }

    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> TarBuilder {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn entry(self, kind: EntryType, path: &str, target: &str, bytes: &[u8]) -> TarBuilder {
        let mode = if kind == EntryType::Directory { 0o755 } else { 0o644 };
        self.add(kind, (path, mode), target, bytes)
    }

    fn add(
        mut self,
        kind: EntryType,
        (path, mode): (&str, u32),
        target: &str,
        bytes: &[u8],
    ) -> TarBuilder {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000);
        header.set_size(bytes.len() as u64);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        if path.len() > 100 {
            self.0.append_data(&mut header, path, bytes).unwrap();
            return self;
        }
        // Set as it is: the library's setter refuses unsafe paths.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }
}

pub(crate) fn tree(dir: &Path) -> Tree {
    Tree::create(&dir.join("spool"), Limits::default()).unwrap()
}

/// The tree as text: one path a line; `=` and the bytes of a file, `->` and the
/// target of a link, `/` after a folder.
pub(crate) fn listing(tree: &Tree) -> Vec<String> {
    let mut lines = Vec::new();
    tree.walk(&mut |path, _, inode| {
        let name = String::from_utf8_lossy(path);
        lines.push(match &inode.node {
            Node::Directory(_) => format!("{name}/"),
            Node::File(_) => {
                let bytes = tree.read(path, 1 << 20)?.unwrap();
                format!("{name}={}", String::from_utf8_lossy(&bytes))
            }
            Node::Symlink(target) => format!("{name}->{}", String::from_utf8_lossy(target)),
            Node::Fifo => format!("{name}|"),
        });
        Ok(())
    })
    .unwrap();
    lines
}
