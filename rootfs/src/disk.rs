//! The empty writable disk that every machine starts with: ext4, sparse.

use std::fs::File;
use std::path::PathBuf;

use crate::build::Context;
use crate::digest::Key;
use crate::error::{Error, Result};
use crate::progress::{Origin, Reporter, Step};
use crate::tool::MKE2FS;

/// The size of the disk that `runner` makes unless told otherwise.
pub const DEFAULT_DISK_MIB: u64 = 8192;

/// Sizes that make sense, in MiB.
const SIZES: std::ops::RangeInclusive<u64> = 64..=(16 << 20);

/// Formats a disk of the given size, or takes it from the cache.
///
/// Without a journal, since a disk lives as long as its machine, and with what can
/// wait left to the guest, the file takes some hundred KiB.
pub(crate) fn template(
    mib: u64,
    context: &Context<'_>,
    reporter: &mut Reporter<'_>,
) -> Result<PathBuf> {
    if !SIZES.contains(&mib) {
        return Err(Error::BadDiskSize { mib, least: *SIZES.start(), most: *SIZES.end() });
    }
    let key = Key::new("disk 1").part(mib.to_le_bytes()).finish();
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

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::build::with_context;

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
    fn absurd_size_is_refused_with_the_bounds() {
        let state = tempfile::tempdir().unwrap();

        let error = with_context(state.path(), &mut Vec::new(), |context, reporter| {
            Ok(template(1, context, reporter).unwrap_err())
        });

        assert_eq!(error.to_string(), "disk of 1 MiB is not between 64 and 16777216 MiB");
    }
}
