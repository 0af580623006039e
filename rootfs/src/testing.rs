//! Trees for tests.

use std::path::Path;

pub(crate) use archive::testing::TarBuilder;

use crate::tree::{Limits, Node, Tree};

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
