//! Writes what follows the request on standard input to a file, in place.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use files_proto::{Attributes, Code, Summary};
use nix::errno::Errno;
use nix::libc::O_NONBLOCK;
use nix::unistd::{fchown, getegid, geteuid};

use crate::entry::describe_open;
use crate::error::{fail, failed, invalid};
use crate::open::{self, Opened};
use crate::{Context, Result, attribute};

/// How many bytes are read at once.
const PIECE: usize = 64 << 10;

pub(crate) fn write<W: Write>(
    context: &mut Context<'_, W>,
    path: &str,
    attributes: Option<&Attributes>,
    content: &mut impl Read,
) -> Result<Summary> {
    let path = context.absolute(path)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed("make the folder", parent))?;
    }
    let mut file = open(&path)?;
    own(&file).map_err(failed("change the owner of", &path))?;
    copy(content, &mut file, &path)?;
    if let Some(Attributes { prefix, values }) = attributes {
        attribute::replace(&open::path_of(&file), prefix, values)
            .map_err(failed("set the attributes of", &path))?;
    }
    let described = describe_open(&file, &path, &context.names);
    context.output.entry(described.map_err(failed("read", &path))?)
}

/// Opens a file, and empties or makes it.
fn open(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.write(true).truncate(true);
    let opened = match open::look(path) {
        Ok(Opened::File(found)) => options.open(open::path_of(&found)),
        Ok(Opened::Dir) => Err(Errno::EISDIR.into()),
        Ok(Opened::Other) => return Err(not_a_file(path)),
        // Non-blocking, since it may be a FIFO by now.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            options.create(true).custom_flags(O_NONBLOCK).open(path)
        }
        Err(error) => Err(error),
    };
    let file = opened.map_err(|error| match error.raw_os_error() {
        Some(number) if number == Errno::ENXIO as i32 => not_a_file(path),
        _ => failed("write", path)(error),
    })?;
    let is_file = file.metadata().map_err(failed("read", path))?.is_file();
    if is_file { Ok(file) } else { Err(not_a_file(path)) }
}

fn not_a_file(path: &Path) -> crate::Error {
    invalid(format!("cannot write {}: it is not a regular file", path.display()))
}

/// Gives a file to the user's group. A file of another user keeps its owner.
fn own(file: &File) -> io::Result<()> {
    match fchown(file, Some(geteuid()), Some(getegid())) {
        Err(Errno::EPERM) | Ok(()) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn copy(content: &mut impl Read, file: &mut File, path: &Path) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                let message = format!("cannot read the content for {}: {error}", path.display());
                return Err(fail(Code::Internal, message));
            }
        };
        file.write_all(&buffer[..count]).map_err(failed("write", path))?;
    }
}
