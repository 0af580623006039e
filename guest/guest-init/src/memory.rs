//! What the kernel does when memory runs out: it kills a command soon, rather than stand still.
//!
//! There is no swap, so what it can take back is the page cache, programs' own code included. Where
//! it takes that again and again, just before it is read again, nothing runs and nothing is killed.
//! The multi-generational LRU knows the age of what it takes, and can refuse.

use std::fs;
use std::path::Path;

const FOLDER: &str = "/sys/kernel/mm/lru_gen";

/// What was used so recently stays in memory; if it cannot, a process is killed. Longer than a
/// page's way from the disk, and so short that a VM which is merely slow is left alone.
const WORKING_SET_MS: &str = "250";

/// Sets it up. A kernel that has no such thing boots all the same.
pub(crate) fn keep_working_set() {
    for (file, value) in [("enabled", "y"), ("min_ttl_ms", WORKING_SET_MS)] {
        if let Err(error) = fs::write(Path::new(FOLDER).join(file), value) {
            log::warn!("may stand still when memory runs out; file={file} error={error}");
        }
    }
}
