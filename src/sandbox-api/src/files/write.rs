//! Writing a file of a sandbox, in constant memory.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use files_proto::Code;
use sandbox::{Entry, EntryKind, Owner, WriteRequest};

use super::Files;
use super::error::{Error, Result, failed};

/// How many bytes are sent at once.
const CHUNK: usize = 32 << 10;

/// How a file is written.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// The permission bits of a new file.
    pub mode: u32,
    /// The prefix of extended attributes (`user.…`) and those that replace the ones with it.
    pub attributes: Option<(String, BTreeMap<String, String>)>,
    /// How long the sandbox may take for each piece.
    pub timeout: Duration,
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The absolute path.
    pub path: String,
    /// How many bytes.
    pub size: u64,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { mode: 0o644, attributes: None, timeout: Duration::from_secs(60) }
    }
}

impl Files<'_> {
    /// Writes all of `content` to a file, which has its old content until the new one is complete. A new
    /// file and new folders above it belong to the user; a file that is there keeps its owner and mode. It
    /// is written as root, so the user need not be allowed to.
    pub fn write_file(
        &self,
        path: &str,
        content: &mut dyn Read,
        options: &WriteOptions,
    ) -> Result<Written> {
        let soon = || Instant::now() + options.timeout;
        let account = self.account(soon())?;
        let path = files_proto::absolute(&account.home, path).ok_or_else(|| {
            let message = format!("`{path}` is not a path: it is empty or has a zero byte");
            failed(Code::InvalidArgument, message)
        })?;
        let request = WriteRequest {
            target: (&path).into(),
            make_parents: true,
            owner: Some(Owner { uid: account.uid, gid: account.gid }),
            keeps_existing: true,
            ..WriteRequest::default()
        };
        let mut tree = self.sandbox.write(&request, soon())?;
        // The size is for progress bars only.
        let kind = EntryKind::File { size: 0 };
        let (mode, owner, modified) = (options.mode, None, None);
        tree.entry(&Entry { path: "".into(), kind, mode, owner, modified }, soon())?;
        let mut buffer = vec![0; CHUNK];
        let mut size = 0;
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    tree.data(&buffer[..count], soon())?;
                    size += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Dropping the tree leaves the old file.
                Err(source) => return Err(Error::Content { path, source }),
            }
        }
        tree.finish(soon())?;
        if let Some((prefix, attributes)) = &options.attributes {
            Files::new(self.sandbox, None).set_attributes(&path, prefix, attributes, soon())?;
        }
        Ok(Written { path, size })
    }
}
