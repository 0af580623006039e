//! Writes a file's content to standard output, after its entry.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write};

use files_proto::{Code, Reply};

use crate::entry::describe_open;
use crate::error::{fail, failed, invalid};
use crate::open::{self, Opened};
use crate::{Context, Result};

/// How many bytes are read before the entry is sent.
const BEGIN: u64 = 4096;

pub(crate) fn read<W: Write>(
    context: &mut Context<'_, W>,
    path: &str,
    offset: u64,
    length: Option<u64>,
) -> Result<()> {
    let path = context.absolute(path)?;
    let found = match open::look(&path).map_err(failed("read", &path))? {
        Opened::File(found) => found,
        Opened::Dir => {
            let message = format!("cannot read {}: it is a folder", path.display());
            return Err(fail(Code::IsADirectory, message));
        }
        Opened::Other => {
            return Err(invalid(format!(
                "cannot read {}: it is not a regular file",
                path.display()
            )));
        }
    };
    let opened = File::open(open::path_of(&found));
    let mut file = opened.map_err(failed("read", &path))?;
    // What is described is what is read, whatever takes its name meanwhile.
    let described = describe_open(&file, &path, &context.names);
    let (entry, _) = described.map_err(failed("read", &path))?;
    // The kernel takes no offset that no file can have. Its own files have no size.
    let offset = if entry.size > 0 { offset.min(entry.size) } else { offset };
    if offset > 0 {
        file.seek(SeekFrom::Start(offset)).map_err(failed("read", &path))?;
    }
    let mut content = file.take(length.unwrap_or(u64::MAX));
    // A file that cannot be read at all is an error that can still be told.
    let mut begin = Vec::new();
    let read = content.by_ref().take(BEGIN).read_to_end(&mut begin);
    read.map_err(failed("read", &path))?;
    context.output.reply(&Reply::Entry(entry))?;
    context.output.content(&begin, content, &path)
}
