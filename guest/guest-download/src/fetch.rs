//! Reads an archive from HTTP or a file, and resumes a broken HTTP download.
//!
//! A download is resumed with a range request if the server has sent a validator (`ETag`,
//! `Last-Modified`) and answers with the requested range. Otherwise the reader gets the error and
//! starts over.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use percent_encoding::percent_decode_str;
use platform_client::{HttpClient, HttpResponse};

use crate::task::Attempts;
use crate::{Error, Result};

/// After this many bytes since the last break the number of attempts is reset.
const PROGRESS: u64 = 1 << 20;

/// Opens the archive. Stores the number of bytes read in `count`.
pub(crate) fn open<'a>(
    url: &'a str,
    client: &'a HttpClient,
    attempts: &'a mut Attempts,
    count: &'a AtomicU64,
) -> Result<Box<dyn Read + Send + 'a>> {
    let scheme = url.split(':').next().unwrap_or_default().to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" => {
            let answer = client.get(url, &[]).map_err(|source| Error::Fetch { source })?;
            let version = version(&answer);
            let reader = Box::new(answer.into_reader());
            let offset = Offset { now: 0, at_last_break: 0 };
            Ok(Box::new(Body { url, client, attempts, count, version, reader, offset }))
        }
        "file" => {
            let path = path_of(url)?;
            let file = File::open(&path).map_err(|source| Error::OpenArchive { path, source })?;
            Ok(Box::new(Counted { file, count }))
        }
        _ => Err(Error::Scheme),
    }
}

/// An HTTP body that is resumed when its connection breaks.
struct Body<'a> {
    url: &'a str,
    client: &'a HttpClient,
    attempts: &'a mut Attempts,
    count: &'a AtomicU64,
    version: Option<String>,
    reader: Box<dyn Read + Send>,
    offset: Offset,
}

struct Offset {
    now: u64,
    at_last_break: u64,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.reader.read(buffer) {
                Ok(count) => {
                    self.offset.now += count as u64;
                    self.count.store(self.offset.now, Ordering::Relaxed);
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.resume(error)?,
            }
        }
    }
}

impl Body<'_> {
    /// Requests the rest of the body, as long as attempts are left. Fails with the last error.
    fn resume(&mut self, broken: io::Error) -> io::Result<()> {
        let mut error =
            platform_client::Error::Transport { call: "read the body".into(), source: broken };
        let Some(version) = self.version.clone() else { return Err(io::Error::other(error)) };
        if self.offset.now >= self.offset.at_last_break + PROGRESS {
            self.attempts.reset();
        }
        self.offset.at_last_break = self.offset.now;
        let range = format!("bytes={}-", self.offset.now);
        while let Some(next) = self.attempts.take(Some(&error)) {
            if self.client.stop().wait_until(next) {
                break;
            }
            match self.client.get(self.url, &[("range", &range), ("if-range", &version)]) {
                Ok(answer) if continues(&answer, self.offset.now) => {
                    log::info!("resuming a download; offset={}", self.offset.now);
                    self.reader = Box::new(answer.into_reader());
                    return Ok(());
                }
                // The archive has changed, or the server has no ranges: start over.
                Ok(_) => {
                    self.attempts.give_back();
                    break;
                }
                Err(next) if next.is_retriable() => error = next,
                Err(next) => return Err(io::Error::other(next)),
            }
        }
        Err(io::Error::other(error))
    }
}

/// The validator for `If-Range`. A weak `ETag` does not guarantee equal bytes.
fn version(answer: &HttpResponse) -> Option<String> {
    let tag = answer.header("etag").filter(|tag| tag.starts_with('"'));
    if answer.header("accept-ranges").is_some_and(|units| units.trim() == "none") {
        return None;
    }
    tag.or_else(|| answer.header("last-modified")).map(str::to_owned)
}

/// Whether the answer is a range that starts at `offset`.
fn continues(answer: &HttpResponse, offset: u64) -> bool {
    let range =
        answer.header("content-range").and_then(|range| range.trim().strip_prefix("bytes "));
    let start = range.and_then(|range| range.split('-').next()?.trim().parse().ok());
    answer.status == 206 && start == Some(offset)
}

fn path_of(url: &str) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let rest = url.get(5..).unwrap_or_default();
    let path = rest.strip_prefix("//localhost").or(rest.strip_prefix("//")).unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(Error::Scheme);
    }
    let bytes = percent_decode_str(path).collect::<Vec<u8>>();
    Ok(PathBuf::from(std::ffi::OsString::from_vec(bytes)))
}

struct Counted<'a> {
    file: File,
    count: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.count.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_file_url_decodes_to_its_path() {
        assert_eq!(path_of("file:///a%20b/c").unwrap(), Path::new("/a b/c"));
        assert_eq!(path_of("file://localhost/a").unwrap(), Path::new("/a"));
        path_of("file://elsewhere/a").unwrap_err();
        path_of("file:").unwrap_err();
    }
}
