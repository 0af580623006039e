//! Which disk a folder is on, as the kernel numbers disks.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// Where the kernel lists disks and partitions, by number.
const DEVICES: &str = "/sys/dev/block";

/// The number of the disk beneath a folder, like `8:0`. None if it is on no single one: an overlay, a
/// tmpfs, and btrfs, which may span several, are not.
pub(super) fn beneath(folder: &Path) -> Option<String> {
    let device = fs::metadata(folder).ok()?.dev();
    let number = format!("{}:{}", major(device), minor(device));
    disk(&Path::new(DEVICES).join(number))
}

/// The disk that a device is, or is a partition of: only whole disks can be limited.
fn disk(device: &Path) -> Option<String> {
    // A link to the device's folder, in which those of its partitions are.
    let device = fs::canonicalize(device).ok()?;
    let is_partition = device.join("partition").exists();
    let disk = if is_partition { device.parent()? } else { &device };
    Some(fs::read_to_string(disk.join("dev")).ok()?.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_partition_belongs_to_its_disk() {
        let sys = tempfile::tempdir().unwrap();
        let partition = sys.path().join("devices/sda/sda1");
        fs::create_dir_all(&partition).unwrap();
        fs::write(partition.join("partition"), "1\n").unwrap();
        fs::write(partition.join("dev"), "8:1\n").unwrap();
        fs::write(sys.path().join("devices/sda/dev"), "8:0\n").unwrap();
        symlink("devices/sda", sys.path().join("8:0")).unwrap();
        symlink("devices/sda/sda1", sys.path().join("8:1")).unwrap();

        let disks = ["8:0", "8:1", "0:35"].map(|number| disk(&sys.path().join(number)));

        assert_eq!(disks, [Some("8:0".into()), Some("8:0".into()), None]);
    }

    #[test]
    fn what_is_on_no_disk_has_none() {
        assert_eq!(beneath(Path::new("/proc")), None);
    }
}
