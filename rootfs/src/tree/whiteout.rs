//! Layers: what an upper one hides of those below it. A whiteout never hides what
//! its own layer wrote, wherever in the layer it stands.

use super::{Node, Tree, path};
use crate::error::Result;

impl Tree {
    /// What is added from now on is a layer of its own above the rest.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
    }

    /// Hides `path` and all below it, as far as lower layers wrote it.
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

    /// Hides all that lower layers wrote in the folder `path`.
    pub(crate) fn hide_children(&mut self, path: &[u8]) -> Result<()> {
        if let Some(directory) = self.find(path)? {
            self.hide_if(directory, |_| true);
        }
        Ok(())
    }

    /// Hides the chosen names of one folder: those that the current layer did not
    /// write go, and of its folders what is below them.
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
