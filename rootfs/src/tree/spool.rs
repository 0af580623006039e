//! The content of a tree's files in one scratch file: no name of an archive becomes a name on the
//! host.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The range of a file's content in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    offset: u64,
    pub(crate) length: u64,
}

pub(crate) struct Spool {
    file: File,
    path: PathBuf,
    length: u64,
}

impl Spool {
    pub(crate) fn create(path: &Path) -> Result<Spool> {
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(Spool { file, path: path.to_owned(), length: 0 })
    }

    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Appends all bytes of `reader`. The file's position is always at its end here.
    pub(crate) fn append(&mut self, mut reader: impl Read) -> Result<Extent> {
        let fail = |source| Error::Write { path: self.path.clone(), source };
        let offset = self.length;
        (&self.file).seek(SeekFrom::Start(offset)).map_err(fail)?;
        let length = io::copy(&mut reader, &mut self.file).map_err(fail)?;
        self.length += length;
        Ok(Extent { offset, length })
    }

    /// A reader of one file's content.
    pub(crate) fn open(&self, extent: Extent) -> Result<impl Read + '_> {
        (&self.file)
            .seek(SeekFrom::Start(extent.offset))
            .map_err(|source| Error::Read { path: self.path.clone(), source })?;
        Ok((&self.file).take(extent.length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_of_a_spool_are_read_independently() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(&dir.path().join("spool")).unwrap();
        let first = spool.append(&b"first"[..]).unwrap();
        spool.open(first).unwrap().read_exact(&mut [0; 2]).unwrap();
        let second = spool.append(&b"second"[..]).unwrap();

        let mut text = String::new();
        spool.open(first).unwrap().read_to_string(&mut text).unwrap();
        spool.open(second).unwrap().read_to_string(&mut text).unwrap();

        assert_eq!(text, "firstsecond");
    }
}
