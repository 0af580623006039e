//! Messages for a full disk.

use std::path::Path;

/// Says that a VM's disk is full, with its size if known, and the remedy.
pub(crate) fn disk_full(mib: Option<u64>) -> String {
    let size = mib.map_or_else(String::new, |mib| format!(" ({mib} MiB)"));
    format!("the disk is full{size}: give it more with `disk`")
}

/// Says that the host's disk which holds `path` is full.
pub(crate) fn host_disk_full(path: &Path) -> String {
    format!(
        "the host's disk, which holds the VMs' disks, is full: free space below {}",
        path.display()
    )
}
