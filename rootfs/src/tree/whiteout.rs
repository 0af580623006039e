//! Layers and their whiteouts. A whiteout never hides entries of its own layer, in any order.

use super::{Node, Tree, path};
use crate::error::Result;

impl Tree {
    /// Begins a layer above the existing ones.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Hides `path` and everything below it, except entries of the current layer.
    pub(crate) fn hide(&mut self, path: &[u8]) -> Result<()> {
        let Some((parent, name)) = path::split(path)? else {
            return Ok(());
        };
        let Some(parent) = self.find_components(&parent)? else {
            return Ok(());
        };
        self.hide_if(parent, |candidate| candidate == name);
        Ok(())
    }

    /// Hides all entries of the folder `path`, except those of the current layer.
    pub(crate) fn hide_children(&mut self, path: &[u8]) -> Result<()> {
        if let Some(directory) = self.find(path)? {
            self.hide_if(directory, |_| true);
        }
        Ok(())
    }

    /// Hides the selected entries of a folder. Entries of the current layer stay, but lower layers'
    /// entries below them are hidden.
    fn hide_if(&mut self, directory: usize, chosen: impl Fn(&[u8]) -> bool) {
        let layer = self.layer;
        let Node::Directory(children) = &mut self.inodes[directory].node else {
            return;
        };
        children.retain(|name, child| child.layer == layer || !chosen(name));
        let kept: Vec<usize> = children
            .iter()
            .filter(|(name, _)| chosen(name))
            .map(|(_, child)| child.inode)
            .collect();
        for inode in kept {
            self.hide_if_all(inode);
        }
    }

    fn hide_if_all(&mut self, directory: usize) {
        self.hide_if(directory, |_| true);
    }
}
