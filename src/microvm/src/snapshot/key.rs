//! The key of a snapshot: everything that a restored guest depends on.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sandbox::SandboxConfig;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::vmm::Vmm;

/// Incremented when a change of this program invalidates older snapshots.
const FORMAT: u32 = 2;

/// The identity of a kind of VM on this host: files, processor, kernel, size, devices.
#[derive(Debug)]
pub(crate) struct Key {
    name: String,
    pub(super) depends_on: Vec<Stamp>,
}

/// The identity of a file. An image's files are replaced, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Key {
    /// The key of such a VM; `None` if its kind has no snapshots, or a file cannot be read.
    pub(crate) fn of(vmm: &dyn Vmm, config: &SandboxConfig) -> Option<Self> {
        let identity = vmm.snapshot_identity()?;
        let image = &config.image;
        let files = [&image.kernel, &image.initramfs, &image.rootfs, &image.disk_template];
        let depends_on = files.into_iter().chain(&identity.files).map(|path| Stamp::of(path));
        let depends_on: Vec<Stamp> = depends_on.collect::<io::Result<_>>().ok()?;
        let mut text = format!("{FORMAT} {} {}\n", vmm.kind(), identity.text);
        let has_network = config.network.is_some();
        let _ = writeln!(text, "{} {} {has_network}", config.vcpus, config.memory_mib);
        // The monitor saves them with the VM.
        let _ = writeln!(text, "{:?}", config.disk_limits);
        for Stamp { inode, size, modified, .. } in &depends_on {
            let _ = writeln!(text, "{inode} {size} {modified:?}");
        }
        text.push_str(&host());
        let digest = Sha256::digest(text.as_bytes());
        let name = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Some(Self { name, depends_on })
    }

    /// The name of the snapshot's folder.
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

    pub(super) fn is_unchanged(&self) -> bool {
        Self::of(&self.path).is_ok_and(|now| now == *self)
    }
}

/// The host's kernel and processor.
fn host() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    // Of the first processor: the others are the same. Clock rates change and are left out.
    let first = processors.split("\n\n").next().unwrap_or_default();
    let is_fixed = |line: &&str| !line.starts_with("cpu MHz") && !line.starts_with("bogomips");
    release + &first.lines().filter(is_fixed).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_changes_the_stamp() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kernel");
        fs::write(&path, "a").unwrap();
        let stamp = Stamp::of(&path).unwrap();
        assert!(stamp.is_unchanged());
        fs::write(folder.path().join("other"), "b").unwrap();
        fs::rename(folder.path().join("other"), &path).unwrap();
        assert!(!stamp.is_unchanged());
    }

    #[test]
    fn the_description_of_the_host_is_stable() {
        assert_eq!(host(), host());
    }
}
