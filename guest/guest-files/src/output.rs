//! The replies, one a line.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use files_proto::{Entry, Reply, Summary};

use crate::{Error, Result};

pub(crate) struct Output<W: Write> {
    writer: BufWriter<W>,
}

impl<W: Write> Output<W> {
    pub(crate) fn new(writer: W) -> Self {
        Self { writer: BufWriter::new(writer) }
    }

    pub(crate) fn reply(&mut self, reply: &Reply) -> Result<()> {
        let mut line =
            serde_json::to_vec(reply).map_err(|error| Error::Reply { source: error.into() })?;
        line.push(b'\n');
        self.writer.write_all(&line).map_err(|source| Error::Reply { source })
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.writer.flush().map_err(|source| Error::Reply { source })
    }

    /// Writes the content of a file, and nothing after it.
    pub(crate) fn content(&mut self, begin: &[u8], mut rest: impl Read, path: &Path) -> Result<()> {
        let written = self.writer.write_all(begin);
        let copied = written.and_then(|()| io::copy(&mut rest, &mut self.writer));
        copied.map(drop).map_err(|source| Error::Content { path: path.to_owned(), source })
    }

    /// Replies with the only entry of an operation.
    pub(crate) fn entry(&mut self, (entry, lossy): (Entry, Lossy)) -> Result<Summary> {
        self.reply(&Reply::Entry(entry))?;
        Ok(Summary { lossy_names: u64::from(lossy.0), ..Summary::default() })
    }
}

/// Whether a name was not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lossy(pub(crate) bool);

/// A name as it is sent.
pub(crate) fn shown(name: &OsStr) -> (String, Lossy) {
    match name.to_str() {
        Some(name) => (name.to_owned(), Lossy(false)),
        None => (name.to_string_lossy().into_owned(), Lossy(true)),
    }
}

pub(crate) fn shown_path(path: &Path) -> (String, Lossy) {
    shown(path.as_os_str())
}
