//! The request to build an image.

use std::path::PathBuf;

use crate::source::Source;

/// The image to build, and how.
#[derive(Clone, Debug)]
pub struct BuildRequest {
    /// Name of the image.
    pub name: String,
    /// Source of its files.
    pub source: Source,
    /// Folder of the guest programs: `guest-init`, and optionally `guest-agent`, `guest-download`,
    /// `guest-files` and `guest-mock-claude`.
    pub guest_programs: PathBuf,
    /// Additional Debian packages (Debian sources and recipes only).
    pub packages: Vec<String>,
    /// Tag or full name of the image to use, if the source contains several.
    pub tag: Option<String>,
    /// Do not install passwordless `sudo` for the user `user` (Debian sources and recipes only).
    pub without_sudo: bool,
    /// Size of the writable disk.
    pub disk_mib: u64,
    /// Rebuild every part instead of using the cache.
    pub no_cache: bool,
}
