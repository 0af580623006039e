//! The limits on an archive.

/// The limits on an archive, which [`Reader`](crate::Reader) enforces before it reads what exceeds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Entries, including those that the caller skips.
    pub entries: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Bytes of a path, and of a link's target.
    pub path: usize,
    /// Bytes of the extension headers of one entry: GNU long names and pax records. Each header also
    /// counts as one block.
    pub extension: u64,
    /// Bytes of the archive for each compressed byte, of archives whose compressed bytes are counted.
    pub ratio: u64,
    /// The size of an archive up to which `ratio` is not checked.
    pub ratio_exempt: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 2_000_000,
            bytes: 64 << 30,
            // `PATH_MAX` of Linux without the NUL.
            path: 4095,
            extension: 1 << 20,
            ratio: 250,
            ratio_exempt: 64 << 20,
        }
    }
}
