//! The tar archives of sources: [`archive::Reader`] with the archive's name in its errors.

use std::io::{BufReader, Read};

use archive::{Body, Limits, Reader};

pub(crate) use archive::{Entry as Member, EntryKind as Kind};

use crate::error::{Error, Result};

/// Reads members one after the other; each one's bytes are read through `body`
/// before the next is asked for, or skipped.
pub(crate) struct Archive<R> {
    reader: Reader<'static, BufReader<R>>,
    name: String,
}

impl<R: Read> Archive<R> {
    /// Reads an archive that is not compressed. `name` is for errors.
    pub(crate) fn new(inner: R, name: &str) -> Archive<R> {
        let reader = Reader::new(BufReader::with_capacity(1 << 16, inner), Limits::default());
        Archive { reader, name: name.to_owned() }
    }

    /// The next member, or `None` at the archive's end mark.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>> {
        let fail = |source| Error::BadArchive { archive: self.name.clone(), source };
        self.reader.next_entry().map_err(fail)
    }

    /// The current member's bytes.
    pub(crate) fn body(&mut self) -> Body<'_, 'static, BufReader<R>> {
        self.reader.body()
    }

    /// Where in the archive the current member's bytes begin.
    pub(crate) fn position(&self) -> u64 {
        self.reader.position()
    }
}
