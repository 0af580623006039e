//! `GET /files`: reads a file.

use std::io::{Cursor, Read};
use std::time::Duration;

use http_server::{Content, Head, Response};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::call::Call;
use crate::account::Login;
use crate::files::{self, Code, Entry, FileReader, Range};
use crate::rest::refused::Refused;

/// How long the sandbox may take for each piece.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Files up to this size are read before the reply begins: their size is not believed.
const PIECE: u64 = 64 << 10;

/// The user that the query names.
pub(super) fn login(call: &Call<'_, '_>) -> Result<Login, Refused> {
    let name = call.request.head.query("username")?;
    call.login_as(name.as_deref()).map_err(|error| match &error {
        files::Error::NoUser { message } => {
            let name = name.unwrap_or_default();
            Refused::new(401, format!("error looking up user '{name}': {message}"))
        }
        _ => self::error(&error),
    })
}

pub(super) fn error(error: &files::Error) -> Refused {
    Refused::from(error)
}

pub(super) fn answer(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let head = &call.request.head;
    let path = head.query("path")?.filter(|path| !path.is_empty());
    let path = path.ok_or_else(|| Refused::bad("the parameter `path` is missing"))?;
    if refuses_identity(head) {
        return Err(Refused::new(406, "files are sent as they are: allow `identity`"));
    }
    let login = login(call)?;
    let files = login.files(call.running);
    let open = |range| {
        files.read_file(&path, range, TIMEOUT).map_err(|error| match error.code() {
            Some(Code::NotFound) => Refused::new(404, format!("path '{path}' does not exist")),
            Some(Code::IsADirectory) => Refused::bad(format!("path '{path}' is a directory")),
            _ => self::error(&error),
        })
    };
    if let Some(asked) = asked_range(&call.request.head) {
        let reader = open(asked.begin())?;
        // A file of the kernel says that it is empty: it has no ranges.
        if reader.entry().size > 0 {
            return part(asked, reader, open);
        }
    }
    let mut reader = open(Range::default())?;
    let entry = reader.entry().clone();
    let mut begin = Vec::new();
    let read = reader.by_ref().take(PIECE + 1).read_to_end(&mut begin);
    read.map_err(|error| Refused::internal(&error))?;
    Ok(described(Response { content: content(begin, reader), ..Response::new(200) }, &entry))
}

/// The reply with a part of a file. `reader` has the part, or what is needed to know it.
fn part(
    asked: Asked,
    mut reader: FileReader,
    open: impl Fn(Range) -> Result<FileReader, Refused>,
) -> Result<Response, Refused> {
    let entry = reader.entry().clone();
    let Some((first, last)) = asked.within(entry.size) else {
        let size = format!("bytes */{}", entry.size);
        let refused = Refused::new(416, "the range is not in the file");
        return Ok(refused.response().with("Content-Range", size));
    };
    let length = last - first + 1;
    if let Asked::Last(_) = asked {
        reader = open(Range { offset: first, length: Some(length) })?;
    }
    let content = Content::Reader { length, reader: Box::new(reader) };
    let range = format!("bytes {first}-{last}/{}", entry.size);
    let response = Response { content, ..Response::new(206) };
    Ok(described(response, &entry).with("Content-Range", range))
}

/// The content of a file whose first bytes were read.
fn content(begin: Vec<u8>, reader: FileReader) -> Content {
    let (read, length) = (begin.len() as u64, reader.entry().size);
    if read <= PIECE {
        return Content::Bytes(begin);
    }
    let mut reader = Cursor::new(begin).chain(reader);
    if length >= read {
        return Content::Reader { length, reader: Box::new(reader) };
    }
    // Files of `/proc` and `/sys` are longer than their size.
    Content::Stream(Box::new(move |writer| std::io::copy(&mut reader, writer).map(drop)))
}

fn described(response: Response, entry: &Entry) -> Response {
    let name = utf8_percent_encode(&entry.name, NON_ALPHANUMERIC);
    response
        .with("Content-Type", "application/octet-stream")
        .with("Content-Disposition", format!("inline; filename*=UTF-8''{name}"))
        .with("X-Content-Type-Options", "nosniff")
        .with("Accept-Ranges", "bytes")
        .with("Vary", "Accept-Encoding")
}

/// Whether the client does not want the content as it is.
fn refuses_identity(head: &Head) -> bool {
    let accepted = head.header("accept-encoding").unwrap_or_default().to_ascii_lowercase();
    let weight = |coding: &str| {
        let mut codings = accepted.split(',').map(|one| one.split_once(';').unwrap_or((one, "")));
        let (_, parameters) = codings.find(|(name, _)| name.trim() == coding)?;
        Some(parameters.trim().strip_prefix("q=")?.trim().parse::<f32>().is_ok_and(|q| q <= 0.0))
    };
    match weight("identity") {
        Some(is_refused) => is_refused,
        None if accepted.split(',').any(|one| one.trim() == "identity") => false,
        None => weight("*").unwrap_or(false),
    }
}

/// What a request with a range asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    From { first: u64, last: Option<u64> },
    Last(u64),
}

impl Asked {
    /// What is read before the file's size is known.
    fn begin(self) -> Range {
        match self {
            Self::From { first, last } => {
                Range { offset: first, length: last.map(|last| (last - first).saturating_add(1)) }
            }
            Self::Last(_) => Range { offset: 0, length: Some(0) },
        }
    }

    /// The first and the last byte in a file of this size, if there is one.
    fn within(self, size: u64) -> Option<(u64, u64)> {
        let end = size.checked_sub(1)?;
        match self {
            Self::From { first, last } if first <= end => {
                Some((first, last.unwrap_or(end).min(end)))
            }
            Self::Last(count) if count > 0 => Some((size.saturating_sub(count), end)),
            _ => None,
        }
    }
}

/// The range of a request. Several, and those with a condition, are answered with the whole file.
fn asked_range(head: &Head) -> Option<Asked> {
    if head.header("if-range").is_some() {
        return None;
    }
    parse_range(head.header("range")?)
}

fn parse_range(text: &str) -> Option<Asked> {
    let (first, last) = text.strip_prefix("bytes=")?.trim().split_once('-')?;
    let number = |text: &str| text.parse::<u64>().ok().filter(|_| !text.starts_with('+'));
    match (first, last) {
        ("", last) => number(last).map(Asked::Last),
        (first, "") => Some(Asked::From { first: number(first)?, last: None }),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Asked::From { first, last: Some(last) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_the_file() {
        let within = |text: &str, size| parse_range(text).and_then(|asked| asked.within(size));
        assert_eq!(within("bytes=0-3", 10), Some((0, 3)));
        assert_eq!(within("bytes=5-", 10), Some((5, 9)));
        assert_eq!(within("bytes=-3", 10), Some((7, 9)));
        assert_eq!(within("bytes=-30", 10), Some((0, 9)));
        assert_eq!(within("bytes=8-99", 10), Some((8, 9)));
        assert_eq!(within("bytes=10-", 10), None);
        assert_eq!(within("bytes=-0", 10), None);
        assert_eq!(within("bytes=0-0", 0), None);
    }

    #[test]
    fn a_malformed_range_is_ignored() {
        for text in
            ["bytes=3-2", "bytes=a-b", "bytes=0-1,4-5", "lines=0-1", "bytes=+1-2", "bytes=-"]
        {
            assert_eq!(parse_range(text), None, "{text}");
        }
    }
}
