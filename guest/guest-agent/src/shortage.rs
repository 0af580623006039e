//! Detects a full disk when the CLI has ended. It may be why the CLI failed, and the CLI may not say so.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// A disk with less free space counts as full: writes fail before it reaches zero.
const MIN_FREE: u64 = 1 << 20;

/// The messages of libc and of Node.js.
const MESSAGES: [&str; 2] = ["No space left on device", "ENOSPC"];

/// The warning for the user if the disk of `path` is out of space or inodes. `said` are the CLI's last
/// messages, `disk_mib` is the disk size that the user requested.
pub(crate) fn describe(path: &Path, said: &str, disk_mib: Option<u64>) -> Option<String> {
    let disk = statvfs(path).ok()?;
    let room = disk.blocks_available() * disk.fragment_size();
    let whole = disk.blocks() * disk.fragment_size();
    let inodes = (disk.files(), disk.files_available());
    explain(room, inodes, said, disk_mib.unwrap_or(whole >> 20))
}

fn explain(room: u64, (files, free): (u64, u64), said: &str, mib: u64) -> Option<String> {
    // A file system without a limit on inodes reports zero files.
    if files > 0 && free == 0 {
        return Some(format!(
            "the disk has no inode left ({files} files): give it more with `disk`"
        ));
    }
    let is_full = room < MIN_FREE || MESSAGES.iter().any(|text| said.contains(text));
    is_full.then(|| format!("the disk is full ({mib} MiB): give it more with `disk`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_full_by_its_free_space_or_by_a_message_of_the_cli() {
        let full = Some("the disk is full (256 MiB): give it more with `disk`".to_owned());
        assert_eq!(explain(4096, (9, 9), "", 256), full);
        assert_eq!(explain(9 << 20, (9, 9), "cp: No space left on device", 256), full);
        assert_eq!(explain(9 << 20, (0, 0), "it broke", 256), None);
    }

    #[test]
    fn a_disk_without_free_inodes_has_a_message_of_its_own() {
        let text = explain(9 << 20, (65_536, 0), "", 256).unwrap();
        assert_eq!(text, "the disk has no inode left (65536 files): give it more with `disk`");
    }
}
