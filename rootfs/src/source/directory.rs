//! A folder of the host as a source. Links are stored and never followed. Other file systems
//! mounted inside, sockets and devices are left out.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::OFlag;

use crate::error::{Error, Result};
use crate::progress::Meter;
use crate::tree::{Content, Meta, Tree};

/// Device and inode number of a file with several links, and its first path.
type Links = HashMap<(u64, u64), Vec<u8>>;

/// Adds the content of `root` to the tree.
pub(crate) fn add(tree: &mut Tree, root: &Path, meter: &mut Meter<'_>) -> Result<()> {
    let metadata =
        fs::metadata(root).map_err(|source| Error::Read { path: root.to_owned(), source })?;
    tree.add(b"/", meta(root, &metadata)?, Content::Directory)?;
    add_children(tree, root, &Place { path: b"", device: metadata.dev() }, &mut Links::new(), meter)
}

/// The target of a folder in the tree, and the device that its files must be on.
struct Place<'a> {
    path: &'a [u8],
    device: u64,
}

fn add_children(
    tree: &mut Tree,
    directory: &Path,
    place: &Place<'_>,
    links: &mut Links,
    meter: &mut Meter<'_>,
) -> Result<()> {
    let fail = |source| Error::Read { path: directory.to_owned(), source };
    for entry in fs::read_dir(directory).map_err(fail)? {
        let host = entry.map_err(fail)?.path();
        let name = host.file_name().unwrap_or_default().as_bytes();
        let path = [place.path, b"/", name].concat();
        let metadata = fs::symlink_metadata(&host)
            .map_err(|source| Error::Read { path: host.clone(), source })?;
        if metadata.is_dir() {
            tree.add(&path, meta(&host, &metadata)?, Content::Directory)?;
            if metadata.dev() == place.device {
                let below = Place { path: &path, device: place.device };
                add_children(tree, &host, &below, links, meter)?;
            }
        } else {
            add_leaf(tree, &host, &path, &metadata, links)?;
            meter.add(metadata.len());
        }
    }
    Ok(())
}

fn add_leaf(
    tree: &mut Tree,
    host: &Path,
    path: &[u8],
    metadata: &Metadata,
    links: &mut Links,
) -> Result<()> {
    let fail = |source| Error::Read { path: host.to_owned(), source };
    let kind = metadata.file_type();
    if metadata.nlink() > 1 {
        let identity = (metadata.dev(), metadata.ino());
        if let Some(first) = links.get(&identity) {
            return tree.add(path, Meta::default(), Content::HardLink(first));
        }
        if kind.is_file() || kind.is_symlink() || kind.is_fifo() {
            links.insert(identity, path.to_vec());
        }
    }
    let meta = meta(host, metadata)?;
    if kind.is_symlink() {
        let target = fs::read_link(host).map_err(fail)?;
        tree.add(path, meta, Content::Symlink(target.as_os_str().as_bytes()))
    } else if kind.is_file() {
        // The file may have become a link or a FIFO since `lstat`.
        let flags = (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits();
        let mut file = File::options().read(true).custom_flags(flags).open(host).map_err(fail)?;
        tree.add(path, meta, Content::File(&mut file))
    } else if kind.is_fifo() {
        tree.add(path, meta, Content::Fifo)
    } else {
        log::debug!("leaving out a socket or device; path={}", host.display());
        Ok(())
    }
}

fn meta(path: &Path, metadata: &Metadata) -> Result<Meta> {
    Ok(Meta {
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        mtime: u64::try_from(metadata.mtime()).unwrap_or(0),
        xattrs: xattrs(path)?,
    })
}

fn xattrs(path: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let fail = |source| Error::Read { path: path.to_owned(), source };
    let names = match xattr::list(path) {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();
    for name in names {
        if let (Some(text), Some(value)) = (name.to_str(), xattr::get(path, &name).map_err(fail)?) {
            found.push((text.to_owned(), value));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::progress::{Origin, Reporter, Step};
    use crate::testing::{listing, tree};

    fn read(tree: &mut Tree, root: &Path) {
        Reporter::new(&mut |_| ())
            .step(Step::Read, |meter| {
                add(tree, root, meter)?;
                Ok(((), Origin::Made))
            })
            .unwrap();
    }

    #[test]
    fn files_and_links_are_copied_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("d")).unwrap();
        fs::write(root.join("d/a"), "1").unwrap();
        symlink("/etc/passwd", root.join("out")).unwrap();
        let mut tree = tree(dir.path());

        read(&mut tree, &root);

        assert_eq!(listing(&tree), ["d/", "d/a=1", "out->/etc/passwd"]);
    }

    #[test]
    fn hard_links_of_a_folder_stay_hard_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::write(root.join("a"), "1").unwrap();
        fs::hard_link(root.join("a"), root.join("b")).unwrap();
        let mut tree = tree(dir.path());

        read(&mut tree, &root);

        assert_eq!(listing(&tree), ["a=1", "b=1"]);
        assert_eq!(tree.bytes(), 1);
    }

    #[test]
    fn sockets_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(root.join("s")).unwrap();
        let mut tree = tree(dir.path());

        read(&mut tree, &root);

        assert_eq!(listing(&tree), [""; 0]);
    }
}
