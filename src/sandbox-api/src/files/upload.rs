//! Writing a file of a sandbox in place, with the user's rights, in constant memory.

use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use files_proto::{Attributes, Entry, Reply, Request};

use super::Files;
use super::error::{Error, Result};

/// How many bytes are sent at once.
const CHUNK: usize = 32 << 10;

impl Files<'_> {
    /// Writes all of `content` to a file: empties or makes it first, and makes the folders above it. An error
    /// leaves what was written. `timeout` is for each piece.
    pub fn upload(
        &self,
        path: &str,
        content: &mut dyn Read,
        attributes: Option<Attributes>,
        timeout: Duration,
    ) -> Result<Entry> {
        let soon = || Instant::now() + timeout;
        let request = Request::Write { path: path.to_owned(), attributes };
        let mut call = self.call(&request, soon())?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    match call.write(&buffer[..count], soon()) {
                        Err(
                            error @ (Error::Closed
                            | Error::Sandbox(sandbox::Error::TimedOut { .. })),
                        ) => {
                            return Err(error);
                        }
                        // The program has ended; its last reply says why.
                        Err(_) => break,
                        Ok(()) => {}
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The program ends with its call.
                Err(source) => return Err(Error::Content { path: path.to_owned(), source }),
            }
        }
        call.close_input()?;
        let mut found = None;
        loop {
            match call.next(Some(soon()))? {
                Reply::Entry(entry) if found.is_none() => found = Some(entry),
                Reply::Done(_) => return found.ok_or(Error::Malformed),
                Reply::Error(failure) => return Err(Error::Failed(failure)),
                _ => return Err(Error::Malformed),
            }
        }
    }
}
