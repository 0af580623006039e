//! Archives for tests.

#![allow(clippy::unwrap_used, reason = "a test that fails panics")]
#![allow(missing_docs, reason = "the names say it")]

use tar::{Builder, EntryType, Header};

/// Writes tar archives, those that a sane program would not write too.
pub struct TarBuilder(Builder<Vec<u8>>);

impl Default for TarBuilder {
    fn default() -> TarBuilder {
        TarBuilder::new()
    }
}

impl TarBuilder {
    pub fn new() -> TarBuilder {
        TarBuilder(Builder::new(Vec::new()))
    }

    pub fn file(self, path: &str, text: &str) -> TarBuilder {
        self.entry(EntryType::Regular, path, "", text.as_bytes())
    }

    pub fn program(self, path: &str, text: &str) -> TarBuilder {
        self.add(EntryType::Regular, (path, 0o755), "", text.as_bytes())
    }

    pub fn bytes(self, path: &str, bytes: &[u8]) -> TarBuilder {
        self.entry(EntryType::Regular, path, "", bytes)
    }

    pub fn dir(self, path: &str) -> TarBuilder {
        self.entry(EntryType::Directory, path, "", b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> TarBuilder {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    pub fn hard_link(self, path: &str, target: &str) -> TarBuilder {
        self.entry(EntryType::Link, path, target, b"")
    }

    pub fn device(self, path: &str) -> TarBuilder {
        self.entry(EntryType::Char, path, "", b"")
    }

    pub fn pax(mut self, key: &str, value: &[u8]) -> TarBuilder {
        self.0.append_pax_extensions([(key, value)]).unwrap();
        self
    }

    pub fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }

    fn entry(self, kind: EntryType, path: &str, target: &str, bytes: &[u8]) -> TarBuilder {
        let mode = if kind == EntryType::Directory { 0o755 } else { 0o644 };
        self.add(kind, (path, mode), target, bytes)
    }

    fn add(
        mut self,
        kind: EntryType,
        (path, mode): (&str, u32),
        target: &str,
        bytes: &[u8],
    ) -> TarBuilder {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000);
        header.set_size(bytes.len() as u64);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        if path.len() > 100 {
            self.0.append_data(&mut header, path, bytes).unwrap();
            return self;
        }
        // Set as it is: the library's setter refuses unsafe paths.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        self.0.append(&header, bytes).unwrap();
        self
    }
}
