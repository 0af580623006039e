//! Finds programs.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// Folders that are searched besides `PATH`, which sudo shortens.
const FOLDERS: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/root/.cargo/bin"];

/// The path of a program, if it is installed.
pub fn look_up(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("bin"));
    std::env::split_paths(&path)
        .chain(home)
        .chain(FOLDERS.map(PathBuf::from))
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// The group that may use `/dev/kvm`.
pub fn kvm_group() -> Option<u32> {
    let device = std::fs::metadata("/dev/kvm").ok()?;
    (device.mode() & 0o060 == 0o060 && device.gid() != 0).then(|| device.gid())
}
