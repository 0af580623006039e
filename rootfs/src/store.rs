//! Finished images by name.
//!
//! ```text
//! <state_dir>/images/
//!   .lock                  held while a name changes
//!   NAME/image.json        the commit point: names the folder below
//!   NAME/ID/vmlinux initramfs.cpio rootfs.squashfs disk.ext4
//! ```
//!
//! INVARIANT: files of an image are never changed. Another build of the same name adds a folder and
//! then replaces `image.json`; a VM that has opened the old files keeps them.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base::durable;
use base::lock;
use serde::{Deserialize, Serialize};

use crate::arch::Arch;
use crate::error::{Error, Result};
use crate::stage;

pub(crate) const KERNEL: &str = "vmlinux";
pub(crate) const INITRAMFS: &str = "initramfs.cpio";
pub(crate) const ROOTFS: &str = "rootfs.squashfs";
pub(crate) const DISK: &str = "disk.ext4";

const RECORD: &str = "image.json";

/// An image that VMs can start from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// The name of the image.
    pub name: String,
    /// Hash of its content, in hex.
    pub id: String,
    /// The kernel, uncompressed.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// The read-only root file system.
    pub rootfs: PathBuf,
    /// The empty writable disk: sparse, copied for each VM.
    pub disk_template: PathBuf,
    /// The description of the image.
    #[serde(flatten)]
    pub description: Description,
}

/// The description of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The kernel's release, as printed by `uname -r`.
    pub kernel_version: String,
    /// The end of its build, in seconds since 1970.
    pub created: u64,
    /// The disk usage of its files.
    pub size_bytes: u64,
    /// The source of the image.
    pub source: String,
    /// The processor architecture.
    pub arch: Arch,
    /// The defaults for commands.
    pub defaults: Defaults,
}

/// The defaults for commands from a container image's configuration; empty for other sources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Defaults {
    /// `NAME=VALUE` each.
    pub env: Vec<String>,
    /// The working directory.
    pub workdir: Option<String>,
    /// User name or number, with an optional `:GROUP`.
    pub user: Option<String>,
    /// The entrypoint: it precedes the command.
    pub entrypoint: Vec<String>,
    /// The default command.
    pub command: Vec<String>,
}

/// The content of `image.json`.
#[derive(Serialize, Deserialize)]
struct ImageRecord {
    id: String,
    #[serde(flatten)]
    description: Description,
}

/// The images of a state folder.
#[derive(Clone, Debug)]
pub struct Store {
    state_dir: PathBuf,
}

impl Store {
    /// Opens the store, and creates missing folders.
    pub fn open(state_dir: &Path) -> Result<Store> {
        let store = Store { state_dir: state_dir.to_owned() };
        durable::create_dir(&store.images())?;
        Ok(store)
    }

    /// The image of that name.
    pub fn get(&self, name: &str) -> Result<Image> {
        check_name(name)?;
        let directory = self.images().join(name);
        let path = directory.join(RECORD);
        let json = fs::read(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => Error::NoImage { name: name.to_owned() },
            _ => Error::Read { path: path.clone(), source },
        })?;
        let record: ImageRecord = serde_json::from_slice(&json)
            .map_err(|source| Error::BadRecord { path: path.clone(), source })?;
        let files = directory.join(folder(&record.id));
        Ok(Image {
            name: name.to_owned(),
            id: record.id,
            kernel: files.join(KERNEL),
            initramfs: files.join(INITRAMFS),
            rootfs: files.join(ROOTFS),
            disk_template: files.join(DISK),
            description: record.description,
        })
    }

    /// All images in the order of their names. An unreadable image is logged and skipped.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for name in entries(&self.images())? {
            if check_name(&name).is_err() {
                continue;
            }
            match self.get(&name) {
                Ok(image) => images.push(image),
                // A first build that died, or a concurrently removed image.
                Err(Error::NoImage { .. }) => {}
                Err(error) => log::warn!("cannot read an image; name={name} error={error}"),
            }
        }
        images.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(images)
    }

    /// Removes an image. Running VMs keep its files.
    pub fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let lock = self.lock()?;
        let path = self.images().join(name);
        if !path.exists() {
            return Err(Error::NoImage { name: name.to_owned() });
        }
        // The rename hides it at once; after a crash the next build removes the rest.
        let parent = stage::parent(&self.state_dir);
        durable::create_dir(&parent)?;
        let doomed = parent.join(stage::unique_name());
        fs::rename(&path, &doomed).map_err(|source| Error::Rename {
            from: path,
            to: doomed.clone(),
            source,
        })?;
        drop(lock);
        Ok(durable::remove(&doomed)?)
    }

    pub(crate) fn state_dir(&self) -> &Path {
        &self.state_dir
    }

    /// Commits a folder of finished files as the image `name`.
    pub(crate) fn commit(
        &self,
        name: &str,
        id: &str,
        files: &Path,
        description: Description,
    ) -> Result<Image> {
        let directory = self.images().join(name);
        let record = ImageRecord { id: id.to_owned(), description };
        let path = directory.join(RECORD);
        let json = serde_json::to_vec_pretty(&record)
            .map_err(|source| Error::BadRecord { path: path.clone(), source })?;
        let _lock = self.lock()?;
        durable::create_dir(&directory)?;
        let kept = directory.join(folder(id));
        if !kept.exists() {
            durable::publish(files, &kept)?;
        }
        durable::write(&path, &json)?;
        for other in entries(&directory)? {
            if other != RECORD && other != folder(id) {
                durable::remove(&directory.join(other))?;
            }
        }
        self.get(name)
    }

    fn lock(&self) -> Result<lock::Lock> {
        let path = self.images().join(".lock");
        lock::acquire(&path, || ()).map_err(|source| Error::Lock { path, source })
    }

    fn images(&self) -> PathBuf {
        self.state_dir.join("images")
    }
}

/// Accepts `[a-z0-9][a-z0-9._-]{0,63}`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    const LONGEST: usize = 64;
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let good = name.len() <= LONGEST
        && name.bytes().next().is_some_and(plain)
        && name.bytes().all(|c| plain(c) || matches!(c, b'.' | b'_' | b'-'));
    if good { Ok(()) } else { Err(Error::BadName { name: name.to_owned() }) }
}

/// The disk usage of files, which is less than their lengths if they are sparse.
pub(crate) fn size_on_disk(directory: &Path) -> Result<u64> {
    const BLOCK: u64 = 512;
    entries(directory)?.iter().try_fold(0, |sum, name| {
        let path = directory.join(name);
        match path.metadata() {
            Ok(metadata) => Ok(sum + metadata.blocks() * BLOCK),
            Err(source) => Err(Error::Read { path, source }),
        }
    })
}

/// The name of an image's folder: a prefix of the id that is unique below one name.
fn folder(id: &str) -> &str {
    id.get(..16).unwrap_or(id)
}

fn entries(directory: &Path) -> Result<Vec<String>> {
    let fail = |source| Error::Read { path: directory.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        names.push(entry.map_err(fail)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> Description {
        Description {
            kernel_version: "6.1".into(),
            created: 7,
            size_bytes: 42,
            source: "debian:bookworm".into(),
            arch: Arch::X86_64,
            defaults: Defaults { workdir: Some("/srv".into()), ..Defaults::default() },
        }
    }

    fn commit(store: &Store, name: &str, id: &str) -> Image {
        let files = store.state_dir.join("made");
        fs::create_dir(&files).unwrap();
        fs::write(files.join(KERNEL), id).unwrap();
        store.commit(name, id, &files, description()).unwrap()
    }

    #[test]
    fn a_committed_image_can_be_opened() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let image = commit(&store, "default", &"a".repeat(64));

        let found = store.get("default").unwrap();

        assert_eq!(found, image);
        assert_eq!(found.description, description());
        assert_eq!(fs::read_to_string(found.kernel).unwrap(), "a".repeat(64));
    }

    #[test]
    fn commit_replaces_the_old_image_and_its_open_files_stay_readable() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let old = commit(&store, "default", &"a".repeat(64));
        let open = fs::File::open(&old.kernel).unwrap();

        let new = commit(&store, "default", &"b".repeat(64));

        assert_eq!(store.get("default").unwrap().id, new.id);
        assert!(!old.kernel.exists());
        assert_eq!(std::io::read_to_string(open).unwrap(), "a".repeat(64));
    }

    #[test]
    fn the_error_of_a_missing_image_names_it() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();

        let error = store.get("nothing").unwrap_err();

        assert_eq!(error.to_string(), "no image named nothing");
    }

    #[test]
    fn the_list_is_sorted_and_skips_folders_without_an_image() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        commit(&store, "b", &"b".repeat(64));
        fs::remove_dir_all(state.path().join("made")).ok();
        commit(&store, "a", &"a".repeat(64));
        fs::create_dir(state.path().join("images/unfinished")).unwrap();
        fs::create_dir(state.path().join("images/damaged")).unwrap();
        fs::write(state.path().join("images/damaged/image.json"), "{").unwrap();

        let names: Vec<String> =
            store.list().unwrap().into_iter().map(|image| image.name).collect();

        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn a_removed_image_cannot_be_opened() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        commit(&store, "default", &"a".repeat(64));

        store.remove("default").unwrap();

        assert!(matches!(store.get("default"), Err(Error::NoImage { .. })));
        assert!(matches!(store.remove("default"), Err(Error::NoImage { .. })));
        assert_eq!(fs::read_dir(state.path().join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn names_that_could_be_paths_or_options_are_refused() {
        let bad = ["", ".", "..", "-a", "a/b", "A", "a b", &"a".repeat(65)];

        assert_eq!(bad.iter().filter(|name| check_name(name).is_ok()).count(), 0);
        assert!(check_name("node-20.1_x").is_ok());
    }
}
