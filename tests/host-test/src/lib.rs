//! What tests need of the machine that they run on.
//!
//! | to | use |
//! |---|---|
//! | report that a test cannot run on this machine | [`skip`] |
//! | a PostgreSQL server | [`postgres::Server`] |
//! | mount, and compare mounts, unseen by the rest of the machine | [`enter_mount_namespace`], [`mounts`] |
//! | have an object store | [`s3::S3`] |

#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

pub mod postgres;
pub mod s3;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::io::Write as _;
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Reports that the calling test cannot run here and why; the test returns after it.
///
/// libtest has no verdict for this and prints `ok`. So the report is a line on standard error, past
/// libtest's capture, which `scripts/test` collects: it lists the test as skipped, takes it off the
/// number of those that passed, and fails if `CI=true`.
pub fn skip(reason: impl Display) {
    let program = std::env::current_exe().unwrap();
    let thread = std::thread::current();
    let line = report(&program, thread.name().unwrap_or("main"), &reason.to_string());
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// One line: `test skipped: PROGRAM::TEST: REASON`. Cargo adds a hash to a program's name.
fn report(program: &Path, test: &str, reason: &str) -> String {
    let stem = program.file_stem().unwrap_or_default().to_string_lossy();
    let name = stem.rsplit_once('-').map_or(&*stem, |(name, _hash)| name);
    format!("test skipped: {name}::{test}: {}\n", reason.trim().replace('\n', "; "))
}

/// Moves the calling thread, and what it starts from now on, to a mount namespace of its own. No mount
/// passes from there to the machine's, or from the machine's to there.
pub fn enter_mount_namespace() {
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
}

/// The lines of the calling thread's mount table.
pub fn mounts() -> BTreeSet<String> {
    let table = std::fs::read_to_string("/proc/thread-self/mounts").unwrap();
    table.lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_one_line_with_the_tests_full_name_and_its_reason() {
        let program = Path::new("/target/debug/deps/vsock_test-0123456789abcdef");
        let line = report(program, "exec::a_test", "no cgroup\nno memory\n");
        assert_eq!(line, "test skipped: vsock_test::exec::a_test: no cgroup; no memory\n");
    }

    #[test]
    #[ignore = "needs root"]
    fn a_mount_in_an_own_namespace_is_unseen_by_other_threads() {
        let folder = std::env::temp_dir();
        let (before, own) = std::thread::scope(|scope| {
            let mounting = scope.spawn(|| {
                enter_mount_namespace();
                let before = mounts();
                mount(None::<&str>, &folder, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                    .unwrap();
                (before, mounts())
            });
            mounting.join().unwrap()
        });
        assert_eq!(own.difference(&before).count(), 1);
        assert_eq!(mounts().difference(&before).count(), 0);
    }
}
