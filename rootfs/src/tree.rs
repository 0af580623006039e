//! A root file system: an index in memory, and the files' content in one spool file.
//!
//! Sources are untrusted, so nothing is unpacked on the host: paths, links and owners of a source
//! exist in this index only. Symbolic links in a path are followed *within* the tree, as the guest
//! would; `..` in a member's path is an error.
//!
//! INVARIANT: inode 0 is the root folder, and a folder has only one name, so the tree has no cycle
//! and is at most `MAX_DEPTH` deep.

mod path;
mod spool;
mod whiteout;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use crate::compress;
use crate::error::{Error, Result};

pub(crate) use spool::Extent;
use spool::Spool;

/// The size limits of a tree.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The number of files and folders, including those that a later layer hides.
    pub(crate) entries: usize,
    /// The bytes of files, including hidden ones.
    pub(crate) bytes: u64,
    /// The bytes of names, link targets and extended attributes, which are in memory.
    pub(crate) metadata: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 2_000_000, bytes: 64 << 30, metadata: 512 << 20 }
    }
}

/// The metadata of an inode, without its content and names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970.
    pub(crate) mtime: u64,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
}

impl Meta {
    /// Owner root, modified in 1970, without extended attributes.
    pub(crate) fn with_mode(mode: u32) -> Meta {
        Meta { mode, ..Meta::default() }
    }

    fn xattr_bytes(&self) -> usize {
        self.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// The type of an inode.
#[derive(Debug)]
pub(crate) enum Node {
    Directory(BTreeMap<Vec<u8>, Child>),
    File(Extent),
    Symlink(Vec<u8>),
    Fifo,
}

/// A directory entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Child {
    inode: usize,
    /// The last layer that wrote it or an entry below it.
    layer: u32,
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) meta: Meta,
    pub(crate) node: Node,
}

/// The content for a new path.
pub(crate) enum Content<'a> {
    Directory,
    File(&'a mut dyn Read),
    Symlink(&'a [u8]),
    HardLink(&'a [u8]),
    Fifo,
}

/// A callback with the path, the inode number and the inode.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], usize, &Inode) -> Result<()> + 'a;

pub(crate) struct Tree {
    inodes: Vec<Inode>,
    spool: Spool,
    limits: Limits,
    metadata: u64,
    layer: u32,
}

const ROOT: usize = 0;

impl Tree {
    /// An empty tree; `spool` is the path of a new file for the files' content.
    pub(crate) fn create(spool: &Path, limits: Limits) -> Result<Tree> {
        let root = Inode { meta: Meta::with_mode(0o755), node: Node::Directory(BTreeMap::new()) };
        let spool = Spool::create(spool)?;
        Ok(Tree { inodes: vec![root], spool, limits, metadata: 0, layer: 0 })
    }

    /// Adds an entry at `path`, and replaces an existing one. Missing parents are created. A folder
    /// over a folder keeps its entries.
    pub(crate) fn add(&mut self, path: &[u8], meta: Meta, content: Content<'_>) -> Result<()> {
        let Some((parent, name)) = path::split(path)? else {
            return self.set_root(path, meta, &content);
        };
        let parent = self.make_directories(path, &parent)?;
        if let Content::HardLink(target) = content {
            let inode = self.link_target(path, target)?;
            return self.attach(parent, name, inode);
        }
        if let (Content::Directory, Some(existing)) = (&content, self.lookup(parent, name))
            && matches!(self.inodes[existing].node, Node::Directory(_))
        {
            self.account(meta.xattr_bytes())?;
            self.inodes[existing].meta = meta;
            return self.attach(parent, name, existing);
        }
        let node = self.node(path, content)?;
        let inode = self.allocate(meta, node)?;
        self.attach(parent, name, inode)
    }

    /// The content of the file at `path`, at most `limit` bytes of it.
    pub(crate) fn read(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(inode) = self.find(path)? else {
            return Ok(None);
        };
        let Node::File(extent) = &self.inodes[inode].node else {
            return Ok(None);
        };
        let reader = self.spool.open(*extent)?;
        let bytes = compress::read_bounded(reader, limit)
            .map_err(|source| Error::ReadMember { member: display(path), source })?;
        Ok(Some(bytes))
    }

    /// The inode at `path`, with symbolic links followed.
    pub(crate) fn get(&self, path: &[u8]) -> Result<Option<&Inode>> {
        Ok(self.find(path)?.map(|inode| &self.inodes[inode]))
    }

    /// Calls `visit` with each path (relative, folders before their entries, in the order of names)
    /// and its inode. Hard links of a file have the same inode number.
    pub(crate) fn walk(&self, visit: &mut Visit<'_>) -> Result<()> {
        self.walk_below(ROOT, &mut Vec::new(), visit)
    }

    pub(crate) fn root(&self) -> &Meta {
        &self.inodes[ROOT].meta
    }

    pub(crate) fn open(&self, extent: Extent) -> Result<impl Read + '_> {
        self.spool.open(extent)
    }

    /// The size of all added files, including hidden ones.
    pub(crate) fn bytes(&self) -> u64 {
        self.spool.length()
    }

    fn walk_below(
        &self,
        directory: usize,
        path: &mut Vec<u8>,
        visit: &mut Visit<'_>,
    ) -> Result<()> {
        let Node::Directory(children) = &self.inodes[directory].node else {
            return Ok(());
        };
        for (name, child) in children {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            if path.len() > path::LIMIT {
                return Err(Error::PathTooLong { member: display(path) });
            }
            visit(path, child.inode, &self.inodes[child.inode])?;
            self.walk_below(child.inode, path, visit)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn node(&mut self, path: &[u8], content: Content<'_>) -> Result<Node> {
        Ok(match content {
            Content::Directory => Node::Directory(BTreeMap::new()),
            Content::File(reader) => Node::File(self.store(path, reader)?),
            Content::Symlink(target) => {
                if target.is_empty() || target.len() > path::LIMIT || target.contains(&0) {
                    return Err(Error::BadLink { member: display(path), target: display(target) });
                }
                self.account(target.len())?;
                Node::Symlink(target.to_vec())
            }
            Content::Fifo | Content::HardLink(_) => Node::Fifo,
        })
    }

    fn store(&mut self, path: &[u8], reader: &mut dyn Read) -> Result<Extent> {
        let left = self.limits.bytes - self.spool.length();
        let mut source = Source { inner: reader, error: None };
        let stored = self.spool.append((&mut source).take(left + 1));
        if let Some(source) = source.error {
            return Err(Error::ReadMember { member: display(path), source });
        }
        let extent = stored?;
        if extent.length > left {
            return Err(Error::TooLarge { what: "bytes of files", limit: self.limits.bytes });
        }
        Ok(extent)
    }

    fn allocate(&mut self, meta: Meta, node: Node) -> Result<usize> {
        if self.inodes.len() >= self.limits.entries {
            let limit = self.limits.entries as u64;
            return Err(Error::TooLarge { what: "files", limit });
        }
        self.account(meta.xattr_bytes())?;
        self.inodes.push(Inode { meta, node });
        Ok(self.inodes.len() - 1)
    }

    fn attach(&mut self, parent: usize, name: &[u8], inode: usize) -> Result<()> {
        // A name costs more than its length: each hard link is a node.
        self.account(name.len() + 64)?;
        let layer = self.layer;
        if let Node::Directory(children) = &mut self.inodes[parent].node {
            children.insert(name.to_vec(), Child { inode, layer });
        }
        Ok(())
    }

    fn account(&mut self, bytes: usize) -> Result<()> {
        self.metadata += bytes as u64;
        if self.metadata > self.limits.metadata {
            return Err(Error::TooLarge { what: "bytes of names", limit: self.limits.metadata });
        }
        Ok(())
    }

    fn set_root(&mut self, path: &[u8], meta: Meta, content: &Content<'_>) -> Result<()> {
        if !matches!(content, Content::Directory) {
            return Err(Error::UnsafePath { member: display(path) });
        }
        self.account(meta.xattr_bytes())?;
        self.inodes[ROOT].meta = meta;
        Ok(())
    }

    fn link_target(&self, path: &[u8], target: &[u8]) -> Result<usize> {
        let missing = || Error::BadLink { member: display(path), target: display(target) };
        let (parent, name) = path::split(target)?.ok_or_else(missing)?;
        let parent = self.find_components(&parent)?.ok_or_else(missing)?;
        let inode = self.lookup(parent, name).ok_or_else(missing)?;
        match self.inodes[inode].node {
            // A second name of a folder would allow a cycle.
            Node::Directory(_) => Err(missing()),
            _ => Ok(inode),
        }
    }

    fn lookup(&self, directory: usize, name: &[u8]) -> Option<usize> {
        match &self.inodes[directory].node {
            Node::Directory(children) => children.get(name).map(|child| child.inode),
            _ => None,
        }
    }
}

/// Records an error of the reader, to distinguish it from one of the spool.
struct Source<'a> {
    inner: &'a mut dyn Read,
    error: Option<io::Error>,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).map_err(|error| {
            let kind = error.kind();
            if kind != io::ErrorKind::Interrupted {
                self.error = Some(error);
            }
            kind.into()
        })
    }
}

/// A path of the tree for errors: truncated and without control characters.
pub(crate) fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path.get(..200).unwrap_or(path)).escape_debug().to_string()
}

#[cfg(test)]
mod tests;
