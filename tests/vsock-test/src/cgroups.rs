//! A cgroup for the commands of one test. Needs root and cgroup v2.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use process::Cgroup;

use crate::soon;

/// Created on first use, and removed on drop.
pub struct Cgroups {
    name: String,
    path: PathBuf,
}

impl Default for Cgroups {
    fn default() -> Self {
        Self::new()
    }
}

impl Cgroups {
    /// One that no other test uses.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("vsock-test-{}-{count}", std::process::id());
        let path = process::mount_point().unwrap().join(&name);
        Self { name, path }
    }

    /// The path of the cgroup.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let made = Cgroup::open(self.path.parent().unwrap(), &self.name);
        let destroyed = made.and_then(|made| made.map_or(Ok(()), |cgroup| cgroup.destroy(soon())));
        // A second panic would abort all tests of this program.
        if !std::thread::panicking() {
            destroyed.unwrap();
        }
    }
}
