//! The empty writable disk that every machine starts with: ext4, sparse. An image brings one; others
//! are made as they are asked for.

use std::fs::File;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::arch::Arch;
use crate::cache::{Cache, Reuse};
use crate::context::Context;
use crate::digest::Key;
use crate::error::{Error, Result};
use crate::progress::{Origin, Progress, Reporter, Step};
use crate::stage::{self, Stage};
use crate::store::Store;
use crate::tool::MKE2FS;

/// Sizes of disks that make sense, in MiB.
pub const DISK_SIZES_MIB: RangeInclusive<u64> = 64..=(16 << 20);

impl Store {
    /// An empty disk of that size, for machines of any image. The first of its size is made, after a
    /// build that is under way; it goes some time after it was last asked for.
    pub fn disk(&self, mib: u64) -> Result<PathBuf> {
        let cache = Cache::open(self.state_dir(), Reuse::Allowed);
        if let Some(path) = cache.get("disk", &key(mib)) {
            return Ok(path);
        }
        let mut sink = |event| {
            if matches!(event, Progress::Waiting) {
                log::warn!("an image is being built: a disk has to wait for that; mib={mib}");
            }
        };
        let mut reporter = Reporter::new(&mut sink);
        let stage = Stage::enter(self.state_dir(), &mut reporter)?;
        let context = Context { arch: Arch::host()?, day: 0, stage: &stage, cache: &cache };
        template(mib, &context, &mut reporter)
    }

    /// Warns if a disk of that size cannot be filled. It is sparse, so it can be used all the same.
    pub fn warn_of_little_room(&self, mib: u64) -> Result<()> {
        let free_mib = stage::available_space(self.state_dir())? >> 20;
        if free_mib < mib {
            log::warn!(
                "the disk has {mib} MiB, and {free_mib} MiB are free in {}: it is sparse and takes \
                 room as it is filled; a VM that fills the host's disk is ended",
                self.state_dir().display()
            );
        }
        Ok(())
    }
}

/// Formats a disk of the given size, or takes it from the cache.
///
/// Without a journal, since a disk lives as long as its machine, and with what can
/// wait left to the guest, the file takes some hundred KiB.
pub(crate) fn template(
    mib: u64,
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<PathBuf> {
    if !DISK_SIZES_MIB.contains(&mib) {
        let (least, most) = DISK_SIZES_MIB.into_inner();
        return Err(Error::BadDiskSize { mib, least, most });
    }
    let key = key(mib);
    reporter.step(Step::Disk, |_| {
        if let Some(path) = context.cache.get("disk", &key) {
            return Ok((path, Origin::Cache));
        }
        let made = context.stage.path("disk.ext4");
        File::create_new(&made)
            .and_then(|file| file.set_len(mib << 20))
            .map_err(|source| Error::Write { path: made.clone(), source })?;
        let mut command = MKE2FS.command();
        command
            .args(["-q", "-F", "-t", "ext4", "-L", "overlay", "-m", "0", "-O", "^has_journal"])
            .args(["-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"])
            .arg(&made);
        MKE2FS.run(command, context.stage)?;
        Ok((context.cache.put("disk", &key, &made)?, Origin::Made))
    })
}

fn key(mib: u64) -> String {
    Key::new("disk 1").part(mib.to_le_bytes()).finish()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::context::with_context;

    #[test]
    fn template_is_a_sparse_ext4_that_is_made_once() {
        let state = tempfile::tempdir().unwrap();
        let mut cached = Vec::new();

        let path = with_context(state.path(), &mut cached, |context, reporter| {
            template(1024, context, reporter)?;
            template(1024, context, reporter)
        });

        let metadata = path.metadata().unwrap();
        assert_eq!(metadata.len(), 1024 << 20);
        assert!(metadata.blocks() * 512 < 4 << 20);
        let mut magic = [0; 2];
        let mut file = File::open(&path).unwrap();
        file.seek(SeekFrom::Start(1024 + 56)).unwrap();
        file.read_exact(&mut magic).unwrap();
        assert_eq!(magic, [0x53, 0xef]);
        assert_eq!(cached, [false, true]);
    }

    #[test]
    fn a_template_is_reused_while_an_image_is_built() {
        let state = tempfile::tempdir().unwrap();
        let store = Store::open(state.path()).unwrap();
        let path = store.disk(64).unwrap();
        let _build = Stage::enter(state.path(), &mut Reporter::new(&mut |_| ())).unwrap();

        assert_eq!(store.disk(64).unwrap(), path);

        assert_eq!(path.metadata().unwrap().len(), 64 << 20);
        store.warn_of_little_room(u64::MAX).unwrap();
    }

    #[test]
    fn size_out_of_bounds_is_rejected_with_the_bounds() {
        let state = tempfile::tempdir().unwrap();

        let error = with_context(state.path(), &mut Vec::new(), |context, reporter| {
            Ok(template(1, context, reporter).unwrap_err())
        });

        assert_eq!(error.to_string(), "the disk size 1 MiB is not between 64 and 16777216 MiB");
    }
}
