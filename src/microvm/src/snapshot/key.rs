//! What a snapshot is of. Whatever changes in it makes another snapshot.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sandbox::SandboxConfig;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::vmm::Vmm;

/// To be counted up when a change of this program makes older snapshots useless.
const FORMAT: u32 = 2;

/// The identity of a kind of VM on this host: files, processor, kernel, size, devices.
#[derive(Debug)]
pub(crate) struct Key {
    name: String,
    pub(super) depends_on: Vec<Stamp>,
}

/// A file as it was. Those of an image are never changed, but replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Key {
    /// That of such a VM; none if its kind has no snapshots, or a file of it cannot be looked at.
    pub(crate) fn of(vmm: &dyn Vmm, config: &SandboxConfig) -> Option<Self> {
        let identity = vmm.snapshot_identity()?;
        let image = &config.image;
        let files = [&image.kernel, &image.initramfs, &image.rootfs, &image.disk_template];
        let depends_on = files.into_iter().chain(&identity.files).map(|path| Stamp::of(path));
        let depends_on: Vec<Stamp> = depends_on.collect::<io::Result<_>>().ok()?;
        let mut text = format!("{FORMAT} {} {}\n", vmm.kind(), identity.text);
        let has_network = config.network.is_some();
        let _ = writeln!(text, "{} {} {has_network}", config.vcpus, config.memory_mib);
        // They are part of what is saved.
        let _ = writeln!(text, "{:?}", config.disk_limits);
        for Stamp { inode, size, modified, .. } in &depends_on {
            let _ = writeln!(text, "{inode} {size} {modified:?}");
        }
        text.push_str(&host());
        let digest = Sha256::digest(text.as_bytes());
        let name = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Some(Self { name, depends_on })
    }

    /// As a folder's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Ok(Self { path: path.to_owned(), inode: metadata.ino(), size: metadata.len(), modified })
    }

    pub(super) fn is_as_it_was(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }
}

/// The host's kernel and processor, as far as a guest depends on them.
fn host() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // Those of the first processor. The others are the same, and their clock rates change.
    let first = processors.split("\n\n").next().unwrap_or_default();
    let is_fixed = |line: &&str| !line.starts_with("cpu MHz") && !line.starts_with("bogomips");
    release + &first.lines().filter(is_fixed).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_replaced_is_not_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, "a").unwrap();
        let stamp = Stamp::of(&path).unwrap();
        assert!(stamp.is_as_it_was());
        fs::write(folder.path().join("other"), "b").unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert!(!stamp.is_as_it_was());
    }

    #[test]
    fn the_host_is_the_same_from_one_look_to_the_next() {
        assert_eq!(host(), host());
    }
}
