//! Path resolution in a tree, which never leaves it.

use std::collections::VecDeque;

use super::{Node, ROOT, Tree, display};
use crate::error::{Error, Result};
use crate::tree::Meta;

/// The longest path, as in Linux.
pub(super) const LIMIT: usize = 4095;
const NAME_LIMIT: usize = 255;
/// The most symbolic links on one path, as in Linux.
const MAX_SYMLINKS: usize = 40;
/// The deepest folder. Recursion over the tree relies on it.
const MAX_DEPTH: usize = 512;

/// Splits a member's path into its parents and its last name; `None` for the root itself. Absolute
/// paths start at the root of the tree.
#[expect(clippy::type_complexity, reason = "a path and a name, used at once")]
pub(super) fn split(path: &[u8]) -> Result<Option<(Vec<&[u8]>, &[u8])>> {
    let unsafe_path = || Error::UnsafePath { member: display(path) };
    if path.len() > LIMIT {
        return Err(Error::PathTooLong { member: display(path) });
    }
    let mut names = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err(unsafe_path()),
            _ if name.len() > NAME_LIMIT || name.contains(&0) => return Err(unsafe_path()),
            _ => names.push(name),
        }
    }
    Ok(names.pop().map(|last| (names, last)))
}

/// The result of one step of the resolution.
enum Follow {
    /// A folder.
    Inside(usize),
    /// Neither a folder nor a link.
    Leaf(usize),
    /// A symbolic link.
    Link(Vec<u8>),
    Missing,
}

impl Tree {
    /// The inode at `path`, if it exists.
    pub(super) fn find(&self, path: &[u8]) -> Result<Option<usize>> {
        match split(path)? {
            None => Ok(Some(ROOT)),
            Some((mut names, last)) => {
                names.push(last);
                self.find_components(&names)
            }
        }
    }

    pub(super) fn find_components(&self, names: &[&[u8]]) -> Result<Option<usize>> {
        let mut cursor = Cursor::new(names);
        while let Some(name) = cursor.next_name() {
            match self.follow(cursor.directory(), &name) {
                Follow::Inside(directory) => cursor.enter(directory)?,
                Follow::Link(target) => cursor.jump(&target)?,
                Follow::Leaf(inode) => return Ok(cursor.rest.is_empty().then_some(inode)),
                Follow::Missing => return Ok(None),
            }
        }
        Ok(Some(cursor.directory()))
    }

    /// The folder at `names`; missing folders are created. All of them count as written by the
    /// current layer.
    pub(super) fn make_directories(&mut self, path: &[u8], names: &[&[u8]]) -> Result<usize> {
        let mut cursor = Cursor::new(names);
        while let Some(name) = cursor.next_name() {
            let directory = cursor.directory();
            match self.follow(directory, &name) {
                Follow::Inside(next) => {
                    self.touch(directory, &name);
                    cursor.enter(next)?;
                }
                Follow::Link(target) => cursor.jump(&target)?,
                Follow::Leaf(_) => {
                    return Err(Error::NotADirectory { member: display(path) });
                }
                // Names from a link's target were not checked before.
                Follow::Missing if name.len() > NAME_LIMIT => {
                    return Err(Error::UnsafePath { member: display(&name) });
                }
                Follow::Missing => {
                    let node = Node::Directory(Default::default());
                    let made = self.allocate(Meta::with_mode(0o755), node)?;
                    self.attach(directory, &name, made)?;
                    cursor.enter(made)?;
                }
            }
        }
        Ok(cursor.directory())
    }

    fn follow(&self, directory: usize, name: &[u8]) -> Follow {
        let Some(inode) = self.lookup(directory, name) else {
            return Follow::Missing;
        };
        match &self.inodes[inode].node {
            Node::Directory(_) => Follow::Inside(inode),
            Node::Symlink(target) => Follow::Link(target.clone()),
            _ => Follow::Leaf(inode),
        }
    }

    fn touch(&mut self, directory: usize, name: &[u8]) {
        let layer = self.layer;
        if let Node::Directory(children) = &mut self.inodes[directory].node
            && let Some(child) = children.get_mut(name)
        {
            child.layer = layer;
        }
    }
}

/// A path resolution: the folders from the root, and the remaining names.
struct Cursor {
    way: Vec<usize>,
    rest: VecDeque<Vec<u8>>,
    hops: usize,
}

impl Cursor {
    fn new(names: &[&[u8]]) -> Cursor {
        let rest = names.iter().map(|name| name.to_vec()).collect();
        Cursor { way: vec![ROOT], rest, hops: 0 }
    }

    fn directory(&self) -> usize {
        self.way.last().copied().unwrap_or(ROOT)
    }

    /// The next ordinary name. `..` leads to the parent, and not above the root.
    fn next_name(&mut self) -> Option<Vec<u8>> {
        loop {
            let name = self.rest.pop_front()?;
            match &name[..] {
                b"" | b"." => {}
                b".." => {
                    self.way.truncate(self.way.len().saturating_sub(1).max(1));
                }
                _ => return Some(name),
            }
        }
    }

    fn enter(&mut self, directory: usize) -> Result<()> {
        if self.way.len() >= MAX_DEPTH {
            return Err(Error::TooLarge { what: "nested folders", limit: MAX_DEPTH as u64 });
        }
        self.way.push(directory);
        Ok(())
    }

    /// Prepends a link's target to the remaining names.
    fn jump(&mut self, target: &[u8]) -> Result<()> {
        self.hops += 1;
        if self.hops > MAX_SYMLINKS {
            return Err(Error::LinkLoop { member: display(target) });
        }
        if target.starts_with(b"/") {
            self.way.truncate(1);
        }
        for name in target.split(|byte| *byte == b'/').rev() {
            self.rest.push_front(name.to_vec());
        }
        Ok(())
    }
}
