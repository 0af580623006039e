//! Adds a tar archive to a tree: a whole file system, or an image's layer.

use std::io::Read;

use crate::error::Result;
use crate::members::{Archive, Kind, Member};
use crate::progress::Meter;
use crate::tree::{Content, Meta, Tree};

/// Whether names that begin with `.wh.` are whiteouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whiteouts {
    Honoured,
    Literal,
}

/// Adds all members of the archive. Device nodes are left out, as the guest uses a devtmpfs.
pub(crate) fn apply<R: Read>(
    tree: &mut Tree,
    archive: &mut Archive<R>,
    whiteouts: Whiteouts,
    meter: &mut Meter<'_>,
) -> Result<()> {
    tree.next_layer();
    while let Some(member) = archive.next_member()? {
        let size = member.size;
        if whiteouts == Whiteouts::Literal || !apply_whiteout(tree, &member.path)? {
            add(tree, archive, member)?;
        }
        meter.add(size);
    }
    Ok(())
}

fn add<R: Read>(tree: &mut Tree, archive: &mut Archive<R>, member: Member) -> Result<()> {
    let Member { path, kind, mode, uid, gid, mtime, xattrs, .. } = member;
    let meta = Meta { mode, uid, gid, mtime, xattrs };
    match kind {
        Kind::File => tree.add(&path, meta, Content::File(&mut archive.body())),
        Kind::Directory => tree.add(&path, meta, Content::Directory),
        Kind::Symlink(target) => tree.add(&path, meta, Content::Symlink(&target)),
        Kind::HardLink(target) => tree.add(&path, meta, Content::HardLink(&target)),
        Kind::Fifo => tree.add(&path, meta, Content::Fifo),
        Kind::Device => {
            log::debug!("leaving out a device node; path={}", crate::tree::display(&path));
            Ok(())
        }
    }
}

/// Applies a whiteout; `false` if `path` is none.
fn apply_whiteout(tree: &mut Tree, path: &[u8]) -> Result<bool> {
    let at = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = path.split_at(at);
    let Some(hidden) = name.strip_prefix(b".wh.") else {
        return Ok(false);
    };
    if hidden == b".wh..opq" {
        tree.hide_children(parent)?;
    } else if !hidden.starts_with(b".wh.") {
        // Other names with a double prefix are metadata of aufs.
        tree.hide(&[parent, hidden].concat())?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::progress::{Origin, Reporter, Step};
    use crate::testing::{TarBuilder, listing, tree};

    fn add_layer(tree: &mut Tree, bytes: &[u8], whiteouts: Whiteouts) -> Result<()> {
        Reporter::new(&mut |_| ()).step(Step::Read, |meter| {
            apply(tree, &mut Archive::new(bytes, "layer"), whiteouts, meter)?;
            Ok(((), Origin::Made))
        })
    }

    fn stack(layers: [TarBuilder; 2]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let [lower, upper] = layers;
        add_layer(&mut tree, &lower.finish(), Whiteouts::Honoured).unwrap();
        add_layer(&mut tree, &upper.finish(), Whiteouts::Honoured).unwrap();
        listing(&tree)
    }

    #[test]
    fn whiteout_removes_a_file_of_the_layer_below() {
        let lower = TarBuilder::new().dir("d").file("d/a", "1").file("d/b", "2");
        let upper = TarBuilder::new().file("d/.wh.a", "");

        assert_eq!(stack([lower, upper]), ["d/", "d/b=2"]);
    }

    #[test]
    fn opaque_whiteout_empties_the_folder_of_the_layer_below() {
        let lower = TarBuilder::new().file("d/a", "1").file("d/e/b", "2");
        let upper = TarBuilder::new().dir("d").file("d/new", "3").file("d/.wh..wh..opq", "");

        assert_eq!(stack([lower, upper]), ["d/", "d/new=3"]);
    }

    #[test]
    fn upper_file_replaces_a_lower_folder() {
        let lower = TarBuilder::new().file("d/a", "1");
        let upper = TarBuilder::new().file("d", "now a file");

        assert_eq!(stack([lower, upper]), ["d=now a file"]);
    }

    #[test]
    fn upper_folder_replaces_a_lower_link() {
        let lower = TarBuilder::new().file("real/a", "1").symlink("d", "real");
        let upper = TarBuilder::new().dir("d").file("d/b", "2");

        assert_eq!(stack([lower, upper]), ["d/", "d/b=2", "real/", "real/a=1"]);
    }

    #[test]
    fn a_file_below_a_lower_link_is_written_to_the_links_target() {
        let lower = TarBuilder::new().dir("usr/lib").symlink("lib", "usr/lib");
        let upper = TarBuilder::new().file("lib/x", "1");

        assert_eq!(stack([lower, upper]), ["lib->usr/lib", "usr/", "usr/lib/", "usr/lib/x=1"]);
    }

    #[test]
    fn a_whiteout_with_a_parent_component_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let bytes = TarBuilder::new().file("../.wh.etc", "").finish();

        let error = add_layer(&mut tree, &bytes, Whiteouts::Honoured).unwrap_err();

        assert!(matches!(error, Error::UnsafePath { .. }));
    }

    #[test]
    fn plain_archive_keeps_names_that_look_like_whiteouts() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let bytes = TarBuilder::new().file(".wh.a", "x").finish();

        add_layer(&mut tree, &bytes, Whiteouts::Literal).unwrap();

        assert_eq!(listing(&tree), [".wh.a=x"]);
    }

    #[test]
    fn device_nodes_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let bytes = TarBuilder::new().device("dev/null").file("a", "").finish();

        add_layer(&mut tree, &bytes, Whiteouts::Literal).unwrap();

        assert_eq!(listing(&tree), ["a="]);
    }

    #[test]
    fn a_hard_link_with_a_parent_component_is_rejected() {
        let dir = tempfile::tempdir().unwrap();
        let mut tree = tree(dir.path());
        let bytes = TarBuilder::new().hard_link("shadow", "../../etc/shadow").finish();

        let error = add_layer(&mut tree, &bytes, Whiteouts::Literal).unwrap_err();

        assert!(matches!(error, Error::UnsafePath { .. }));
    }
}
