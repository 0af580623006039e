//! Out of memory: the kernel kills a command early, instead of thrashing.
//!
//! There is no swap, so the kernel reclaims the page cache, which includes the code of programs. If
//! it reclaims pages that are read again at once, the guest thrashes and no process is killed.
//! The multi-generational LRU knows the age of pages, and can refuse to reclaim young ones.

use std::fs;
use std::path::Path;

const FOLDER: &str = "/sys/kernel/mm/lru_gen";

/// Pages used within this time stay in memory; else the kernel kills a process. Longer than a
/// page takes to come from the disk, and too short to affect a VM that is merely slow.
const WORKING_SET_MS: &str = "250";

/// Sets the minimum age. A kernel without this LRU boots, too.
pub(crate) fn keep_working_set() {
    for (file, value) in [("enabled", "y"), ("min_ttl_ms", WORKING_SET_MS)] {
        if let Err(error) = fs::write(Path::new(FOLDER).join(file), value) {
            log::warn!("may stand still when memory runs out; file={file} error={error}");
        }
    }
}
