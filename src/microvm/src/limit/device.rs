//! The disk of a folder, by its device number.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

/// The kernel's list of disks and partitions, by device number.
const DEVICES: &str = "/sys/dev/block";

/// The device number of a folder's disk, like `8:0`. `None` if its file system has no single disk, as
/// overlay, tmpfs, and btrfs, which may span several.
pub(super) fn disk_of(folder: &Path) -> Option<String> {
    let device = fs::metadata(folder).ok()?.dev();
    let number = format!("{}:{}", major(device), minor(device));
    disk(&Path::new(DEVICES).join(number))
}

/// The whole disk of a device, which may be a partition: only whole disks can be limited.
fn disk(device: &Path) -> Option<String> {
    // The folder of a disk has those of its partitions.
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
    fn a_file_system_without_a_disk_has_no_device_number() {
        assert_eq!(disk_of(Path::new("/proc")), None);
    }
}
