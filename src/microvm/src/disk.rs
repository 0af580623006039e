//! A VM's writable disk: a clone of its image's empty disk.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek64};

use crate::{Error, Result, sys};

/// The free space that is reserved for the host on the file system of its VMs' disks: 256 MiB.
const RESERVE: u64 = 256 << 20;

/// The least free space for a new VM's writes.
const HEADROOM: u64 = 64 << 20;

/// The fastest expected growth of all disks, in bytes per second.
const MAX_GROWTH_RATE: u64 = 1 << 30;
/// The shortest and the longest interval between two checks of a disk.
const CHECK_INTERVALS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(30);

/// The method of a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clone {
    /// It shares its blocks with the template.
    Reflink,
    /// The template's data was copied without its holes.
    SparseCopy,
}

/// Clones `template` to a new file `target` that belongs to `uid`.
pub(crate) fn clone(template: &Path, target: &Path, uid: u32) -> Result<Clone> {
    try_clone(template, target, uid).map_err(|source| {
        let (template, target) = (template.to_owned(), target.to_owned());
        Error::CloneDisk { template, target, source }
    })
}

fn try_clone(template: &Path, target: &Path, uid: u32) -> io::Result<Clone> {
    let source = File::open(template)?;
    check_room(&source, target)?;
    let target = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
    fchown(&target, Some(uid), Some(uid))?;
    copy(&source, &target)
}

/// An error if the copy, or the guest's first minutes, would fill the disk.
fn check_room(source: &File, target: &Path) -> io::Result<()> {
    let folder = target.parent().unwrap_or(target);
    let stat = nix::sys::statvfs::statvfs(folder)?;
    let free = stat.blocks_available() * stat.fragment_size();
    let needed = source.metadata()?.blocks() * 512 + HEADROOM + RESERVE;
    if free < needed {
        let text = format!("{} MiB are free, and {} are needed", free >> 20, needed >> 20);
        return Err(io::Error::new(io::ErrorKind::StorageFull, text));
    }
    Ok(())
}

/// Tracks the growth of a sparse disk.
///
/// A VM whose disk grows while less than [`RESERVE`] is free is ended. VMs whose disks do not grow are
/// not.
pub(crate) struct Growth {
    disk: File,
    used: u64,
}

impl Growth {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let disk = File::open(path)?;
        let used = disk.metadata()?.blocks() * 512;
        Ok(Self { disk, used })
    }

    /// Returns the interval until the next check; an error if the disk has grown into the reserve.
    pub(crate) fn check(&mut self) -> Result<Duration> {
        let measured = nix::sys::statvfs::fstatvfs(&self.disk)
            .map_err(io::Error::from)
            .and_then(|stat| Ok((stat, self.disk.metadata()?)));
        let (stat, metadata) = match measured {
            Ok(measured) => measured,
            Err(error) => {
                log::warn!("the disk's growth cannot be measured; error={error}");
                return Ok(*CHECK_INTERVALS.end());
            }
        };
        let free = stat.blocks_available() * stat.fragment_size();
        self.note(free, metadata.blocks() * 512)
    }

    fn note(&mut self, free: u64, used: u64) -> Result<Duration> {
        let grew = used > std::mem::replace(&mut self.used, used);
        if grew && free < RESERVE {
            let [free_mib, reserve_mib, used_mib] = [free, RESERVE, used].map(|bytes| bytes >> 20);
            return Err(Error::HostDiskFull { free_mib, reserve_mib, used_mib });
        }
        let seconds = free.saturating_sub(RESERVE) as f64 / MAX_GROWTH_RATE as f64;
        Ok(Duration::from_secs_f64(seconds).clamp(*CHECK_INTERVALS.start(), *CHECK_INTERVALS.end()))
    }
}

/// Copies `source` to the empty file `target`: a reflink if possible.
pub(crate) fn copy(source: &File, target: &File) -> io::Result<Clone> {
    if sys::reflink(source, target).is_ok() {
        return Ok(Clone::Reflink);
    }
    copy_data(source, target)?;
    Ok(Clone::SparseCopy)
}

/// Copies the data, without the holes.
fn copy_data(source: &File, target: &File) -> io::Result<()> {
    target.set_len(source.metadata()?.len())?;
    for (start, end) in data(source)? {
        copy_range(source, target, start, end)?;
    }
    Ok(())
}

/// The ranges of a file's data, start and end, without its holes.
pub(crate) fn data(file: &File) -> io::Result<Vec<(i64, i64)>> {
    let length = file.metadata()?.len() as i64;
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < length {
        let start = match lseek64(file, at, Whence::SeekData) {
            Err(Errno::ENXIO) => break,
            other => other?,
        };
        at = lseek64(file, start, Whence::SeekHole)?;
        ranges.push((start, at));
    }
    Ok(ranges)
}

fn copy_range(source: &File, target: &File, start: i64, end: i64) -> io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let count = (end - from) as usize;
        match nix::fcntl::copy_file_range(source, Some(&mut from), target, Some(&mut to), count)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => continue,
        }
    }
    Ok(())
}

/// Whether the file system of `folder` has reflinks.
pub(crate) fn can_reflink(folder: &Path) -> io::Result<bool> {
    let unnamed = || {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_TMPFILE).open(folder)
    };
    let (source, target) = (unnamed()?, unnamed()?);
    source.set_len(4096)?;
    Ok(sys::reflink(&source, &target).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom, Write};

    #[test]
    fn a_clone_has_the_data_and_the_holes() {
        let folder = tempfile::tempdir().unwrap();
        let (template, target) = (folder.path().join("a"), folder.path().join("b"));
        let mut file = File::create(&template).unwrap();
        file.write_all(&[1; 5000]).unwrap();
        file.seek(SeekFrom::Start(30 << 20)).unwrap();
        file.write_all(&[2; 5000]).unwrap();
        file.set_len(64 << 20).unwrap();
        copy_data(&File::open(&template).unwrap(), &File::create(&target).unwrap()).unwrap();
        assert!(std::fs::read(&template).unwrap() == std::fs::read(&target).unwrap());
        assert!(target.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    #[test]
    fn an_existing_target_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let (template, target) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&template, "new").unwrap();
        std::fs::write(&target, "old").unwrap();
        let uid = folder.path().metadata().unwrap().uid();
        assert!(clone(&template, &target, uid).is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
    }

    #[test]
    fn a_full_host_is_an_error_before_anything_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("a");
        std::fs::write(&template, "data").unwrap();
        // A file system without any room.
        let error = clone(&template, Path::new("/proc/disk"), 0).unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "0 MiB are free, and 320 are needed");
    }

    #[test]
    fn only_a_disk_that_grows_into_the_hosts_reserve_ends_its_vm() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut growth = Growth::of(file.path()).unwrap();
        let little = RESERVE - 1;

        assert_eq!(growth.note(little, 0).unwrap(), *CHECK_INTERVALS.start());
        growth.note(RESERVE, 8 << 20).unwrap();
        growth.note(little, 8 << 20).unwrap();
        let error = growth.note(little, 9 << 20).unwrap_err();

        assert!(matches!(error, Error::HostDiskFull { free_mib: 255, used_mib: 9, .. }), "{error}");
    }

    #[test]
    fn a_disk_is_checked_more_often_the_less_space_is_free() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut growth = Growth::of(file.path()).unwrap();
        assert_eq!(growth.note(RESERVE + 2 * MAX_GROWTH_RATE, 0).unwrap(), Duration::from_secs(2));
        assert_eq!(growth.note(u64::MAX, 0).unwrap(), *CHECK_INTERVALS.end());
        assert!(growth.check().is_ok());
    }
}
