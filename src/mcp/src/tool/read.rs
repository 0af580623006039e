//! Reading a file by lines. Pictures are shown, other binary files are resources.

use std::io::{BufRead, BufReader, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sandbox_api::files::{FileReader, Range};
use serde_json::{Value, json};

use super::definition::{Effect, Output, Tool};
use super::schema;
use crate::argument::{Arguments, needed};
use crate::call::Call;
use crate::failure::{Failure, Result};
use crate::text::{is_binary, lossy};
use crate::uri;

pub(super) const READ: Tool = Tool {
    name: "read_file",
    title: "Read a file",
    description: |context| {
        format!(
            "Reads a text file of a sandbox by lines, or shows a picture (PNG, JPEG, GIF, WebP). Returns at most {} bytes; \
             a note at the end says at which line to go on.",
            context.options.max_result
        )
    },
    input: |_| {
        let properties = json!({
            "path": schema::path("The file."),
            "offset": schema::number("The first line; the first one is 1.", 1, MOST_LINES),
            "limit": schema::number("The most lines.", 1, MOST_LINES),
            "user": schema::user(),
            "sandbox_id": schema::sandbox(),
        });
        (properties, &["path"])
    },
    output: None,
    effect: Effect::Reads,
    run: read,
};

const MOST_LINES: u64 = 1 << 40;

/// The largest picture, in bytes: models take about that.
const LARGEST_PICTURE: usize = 2 << 20;

/// Lines of a file.
struct Lines<'a> {
    call: &'a Call<'a>,
    reader: BufReader<FileReader>,
}

/// What was read.
struct Part {
    bytes: Vec<u8>,
    /// How many lines, the last one perhaps without its end.
    lines: u64,
    /// Whether the last line goes on.
    is_cut: bool,
    has_more: bool,
}

fn read(call: &Call<'_>, mut arguments: Arguments) -> Result<Output> {
    let path = needed("path", arguments.name("path")?)?;
    let offset = arguments.number("offset", 1..=MOST_LINES)?;
    let limit = arguments.number("limit", 1..=MOST_LINES)?;
    let user = arguments.name("user")?;
    let sandbox = arguments.sandbox()?;
    arguments.finish()?;
    let entered = call.enter(sandbox.as_deref(), call.timeout())?;
    let login = entered.login(call, user.as_deref())?;
    let file = login.files(&entered.running).read_file(&path, Range::default(), call.timeout());
    let file = file.map_err(|error| entered.file_failure(&error))?;
    let (path, size) = (file.entry().path.clone(), file.entry().size);
    let link = uri::format(entered.sandbox.id(), &path);
    drop(entered.running);
    let mut reader = BufReader::with_capacity(32 << 10, file);
    let begin = reader.fill_buf().map_err(|error| unreadable(&path, &error))?;
    if let Some(mime) = picture(begin).filter(|_| offset.is_none() && limit.is_none()) {
        return show(reader, mime, &path);
    }
    if is_binary(begin) {
        return Err(Failure::new(format!(
            "{path} is binary ({size} bytes): look at it with run_command (file, xxd, strings), or read the resource {link}"
        )));
    }
    let first = offset.unwrap_or(1);
    let mut lines = Lines { call, reader };
    lines.skip(first - 1, &path)?;
    let part = lines.take(limit.unwrap_or(u64::MAX), call.options().max_result, &path)?;
    Ok(Output::text(present(&part, first, size, &path)))
}

impl Lines<'_> {
    fn fill(&mut self, path: &str) -> Result<&[u8]> {
        self.call.check()?;
        self.reader.fill_buf().map_err(|error| unreadable(path, &error))
    }

    fn skip(&mut self, mut lines: u64, path: &str) -> Result<()> {
        while lines > 0 {
            let bytes = self.fill(path)?;
            if bytes.is_empty() {
                return Ok(());
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let count = end.map_or(bytes.len(), |end| end + 1);
            lines -= u64::from(end.is_some());
            self.reader.consume(count);
        }
        Ok(())
    }

    /// At most `lines` lines and `most` bytes: whole lines, unless the first one is longer.
    fn take(&mut self, lines: u64, most: usize, path: &str) -> Result<Part> {
        let mut part = Part { bytes: Vec::new(), lines: 0, is_cut: false, has_more: false };
        let mut whole = 0;
        while part.lines < lines {
            let room = most.saturating_sub(part.bytes.len());
            let bytes = self.fill(path)?;
            if bytes.is_empty() {
                part.lines += u64::from(part.bytes.len() > whole);
                return Ok(part);
            }
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let count = end.map_or(bytes.len(), |end| end + 1);
            if count > room {
                part.is_cut = whole == 0;
                part.has_more = true;
                if part.is_cut {
                    part.bytes.extend_from_slice(bytes.get(..room).unwrap_or_default());
                    part.lines = 1;
                } else {
                    part.bytes.truncate(whole);
                }
                return Ok(part);
            }
            part.bytes.extend_from_slice(bytes.get(..count).unwrap_or_default());
            self.reader.consume(count);
            if end.is_some() {
                part.lines += 1;
                whole = part.bytes.len();
            }
        }
        part.has_more = !self.fill(path)?.is_empty();
        Ok(part)
    }
}

fn present(part: &Part, first: u64, size: u64, path: &str) -> String {
    let text = lossy(&part.bytes);
    let next = first + part.lines;
    let note = if part.lines == 0 && first > 1 {
        format!("{path} has no line {first}")
    } else if part.lines == 0 {
        format!("{path} is empty")
    } else if part.is_cut {
        format!(
            "line {first} is cut: it is longer than a result may be. Take parts of it with run_command and `cut -b`; \
             the next line is {next}"
        )
    } else if part.has_more {
        format!("lines {first} to {} of {path} ({size} bytes): go on with offset {next}", next - 1)
    } else {
        return text;
    };
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}[{note}]")
}

fn show(reader: BufReader<FileReader>, mime: &str, path: &str) -> Result<Output> {
    let mut bytes = Vec::new();
    let read = reader.take(LARGEST_PICTURE as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(path, &error))?;
    if bytes.len() > LARGEST_PICTURE {
        let text = format!(
            "the picture {path} has over {LARGEST_PICTURE} bytes: make a smaller copy of it"
        );
        return Err(Failure::new(text));
    }
    let content: Value =
        json!({"type": "image", "data": STANDARD.encode(&bytes), "mimeType": mime});
    Ok(Output::content(content))
}

/// The type of a picture that models can see.
fn picture(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

fn unreadable(path: &str, error: &std::io::Error) -> Failure {
    Failure::new(format!("cannot read {path}: {error}"))
}
