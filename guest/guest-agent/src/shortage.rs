//! What the VM's disk has none left of, at the end of the CLI: why it failed, perhaps, and what it
//! does not say itself.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// Less room than this is none: a program that wants to write finds out sooner than at zero.
const NO_ROOM: u64 = 1 << 20;

/// How the system's programs say it, and Node.js.
const SAID: [&str; 2] = ["No space left on device", "ENOSPC"];

/// What there is none of on the disk of `path`, as its user is told; `said` is what the CLI said at
/// last, and `disk_mib` the disk's size as it was asked for.
pub(crate) fn describe(path: &Path, said: &str, disk_mib: Option<u64>) -> Option<String> {
    let disk = statvfs(path).ok()?;
    let room = disk.blocks_available() * disk.fragment_size();
    let whole = disk.blocks() * disk.fragment_size();
    let inodes = (disk.files(), disk.files_available());
    explain(room, inodes, said, disk_mib.unwrap_or(whole >> 20))
}

fn explain(room: u64, (files, free): (u64, u64), said: &str, mib: u64) -> Option<String> {
    // File systems that have no such limit have no such number.
    if files > 0 && free == 0 {
        return Some(format!(
            "the disk has no inode left ({files} files): give it more with `disk`"
        ));
    }
    let is_full = room < NO_ROOM || SAID.iter().any(|text| said.contains(text));
    is_full.then(|| format!("the disk is full ({mib} MiB): give it more with `disk`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_its_room_or_from_what_the_cli_said() {
        let full = Some("the disk is full (256 MiB): give it more with `disk`".to_owned());
        assert_eq!(explain(4096, (9, 9), "", 256), full);
        assert_eq!(explain(9 << 20, (9, 9), "cp: No space left on device", 256), full);
        assert_eq!(explain(9 << 20, (0, 0), "it broke", 256), None);
    }

    #[test]
    fn a_disk_without_inodes_is_told_from_one_without_room() {
        let told = explain(9 << 20, (65_536, 0), "", 256).unwrap();
        assert_eq!(told, "the disk has no inode left (65536 files): give it more with `disk`");
    }
}
