//! Bodies of forms (`multipart/form-data`, RFC 7578), part by part as they come.
//!
//! ```text
//!   --boundary CRLF headers CRLF CRLF content CRLF --boundary CRLF … CRLF --boundary--
//! ```

use std::io::{self, Read};

/// The largest boundary of RFC 2046.
const LARGEST_BOUNDARY: usize = 70;

/// The largest headers of a part.
const LARGEST_HEADERS: usize = 8 << 10;

/// How many bytes are read at once.
const PIECE: usize = 32 << 10;

/// Why a form cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the content type has no boundary of at most {LARGEST_BOUNDARY} characters")]
    Boundary,
    #[error("the form is malformed: {reason}")]
    Malformed { reason: &'static str },
    #[error(transparent)]
    Read(#[from] io::Error),
}

/// The parts of a form.
pub(super) struct Form<R> {
    from: R,
    /// CRLF, two hyphens, and the boundary.
    delimiter: Vec<u8>,
    buffer: Vec<u8>,
    /// How much of the buffer is taken.
    taken: usize,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before the first delimiter.
    Preamble,
    Content,
    /// Behind a delimiter.
    Delimiter,
    End,
}

/// What a part's headers say.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) file_name: Option<String>,
}

/// The boundary in a Content-Type.
pub(super) fn boundary(content_type: &str) -> Result<String, Error> {
    let parameters = parameters(content_type).map_err(|_| Error::Boundary)?;
    let boundary = parameters.into_iter().find(|(name, _)| name == "boundary");
    let boundary = boundary.map(|(_, value)| value).ok_or(Error::Boundary)?;
    let is_good = (1..=LARGEST_BOUNDARY).contains(&boundary.len())
        && boundary.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if is_good { Ok(boundary) } else { Err(Error::Boundary) }
}

impl<R: Read> Form<R> {
    pub(super) fn new(from: R, boundary: &str) -> Self {
        let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
        // The first delimiter may be at the very beginning.
        Self { from, delimiter, buffer: b"\r\n".to_vec(), taken: 0, place: Place::Preamble }
    }

    /// The next part; what is left of the last one is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Part>, Error> {
        let mut sink = vec![0; PIECE];
        while matches!(self.place, Place::Preamble | Place::Content) {
            self.read_content(&mut sink)?;
        }
        if self.place == Place::End {
            return Ok(None);
        }
        let line = self.line(LARGEST_HEADERS)?;
        match line.trim_ascii_end() {
            b"" => {}
            b"--" => {
                self.place = Place::End;
                return Ok(None);
            }
            _ => return Err(malformed("there is something behind a boundary")),
        }
        let mut part = None;
        let mut room = LARGEST_HEADERS;
        loop {
            let line = self.line(room)?;
            room = room.saturating_sub(line.len() + 2);
            if line.is_empty() {
                break;
            }
            let line = String::from_utf8(line).map_err(|_| malformed("a header is not UTF-8"))?;
            if let Some((name, value)) = line.split_once(':')
                && name.trim().eq_ignore_ascii_case("content-disposition")
            {
                part = Some(disposition(value)?);
            }
        }
        self.place = Place::Content;
        part.map(Some).ok_or_else(|| malformed("a part has no Content-Disposition"))
    }

    /// Reads the content of the part; 0 at its end.
    fn read_content(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        loop {
            let rest = self.buffer.get(self.taken..).unwrap_or_default();
            let found = find(rest, &self.delimiter);
            let plain = match found {
                Some(position) => position,
                // The delimiter may have begun.
                None => rest.len().saturating_sub(self.delimiter.len() - 1),
            };
            let count = plain.min(out.len());
            if count > 0 {
                if let (Some(out), Some(rest)) = (out.get_mut(..count), rest.get(..count)) {
                    out.copy_from_slice(rest);
                }
                self.taken += count;
                return Ok(count);
            }
            if found.is_some() {
                self.taken += self.delimiter.len();
                self.place = Place::Delimiter;
                return Ok(0);
            }
            self.fill()?;
        }
    }

    /// The next line, without its end.
    fn line(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        loop {
            let rest = self.buffer.get(self.taken..).unwrap_or_default();
            match find(rest, b"\r\n") {
                Some(length) if length <= limit => {
                    let line = rest.get(..length).unwrap_or_default().to_vec();
                    self.taken += length + 2;
                    return Ok(line);
                }
                None if rest.len() <= limit => self.fill_line()?,
                _ => return Err(malformed("the headers of a part are too long")),
            }
        }
    }

    /// As [`Form::fill`], but the end of a form may be the end of the body.
    fn fill_line(&mut self) -> Result<(), Error> {
        if self.place == Place::Delimiter && self.buffer.get(self.taken..) == Some(b"--") {
            return match self.fill() {
                Err(Error::Malformed { .. }) => {
                    self.buffer.extend_from_slice(b"\r\n");
                    Ok(())
                }
                other => other,
            };
        }
        self.fill()
    }

    fn fill(&mut self) -> Result<(), Error> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + PIECE, 0);
        let read = loop {
            match self.from.read(self.buffer.get_mut(length..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(length + read.as_ref().copied().unwrap_or(0));
        match read? {
            0 => Err(malformed("it has no end")),
            _ => Ok(()),
        }
    }
}

/// Reads the content of the part that came last.
impl<R: Read> Read for Form<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.place != Place::Content || out.is_empty() {
            return Ok(0);
        }
        self.read_content(out).map_err(|error| match error {
            Error::Read(error) => error,
            other => io::Error::new(io::ErrorKind::InvalidData, other),
        })
    }
}

fn malformed(reason: &'static str) -> Error {
    Error::Malformed { reason }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let first = *pattern.first()?;
    let mut from = 0;
    loop {
        from += bytes.get(from..)?.iter().position(|byte| *byte == first)?;
        if bytes.get(from..)?.starts_with(pattern) {
            return Some(from);
        }
        from += 1;
    }
}

fn disposition(value: &str) -> Result<Part, Error> {
    let mut part = Part::default();
    for (name, value) in parameters(value)? {
        match name.as_str() {
            "name" => part.name = value,
            "filename" => part.file_name = Some(value),
            _ => {}
        }
    }
    Ok(part)
}

/// The parameters of a header: `form-data; name="a"; filename="b\"c"`.
fn parameters(header: &str) -> Result<Vec<(String, String)>, Error> {
    let mut parameters = Vec::new();
    let mut rest = header.split_once(';').map_or("", |(_, rest)| rest);
    while !rest.trim().is_empty() {
        let (name, after) =
            rest.split_once('=').ok_or_else(|| malformed("a header has no value"))?;
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, after) = after.split_once(';').unwrap_or((after, ""));
                (value.trim().to_owned(), after)
            }
        };
        parameters.push((name.trim().to_ascii_lowercase(), value));
        rest = after.trim_start().strip_prefix(';').unwrap_or(after);
    }
    Ok(parameters)
}

/// The text up to the closing quote, and what follows.
fn unquote(quoted: &str) -> Result<(String, &str), Error> {
    let mut text = String::new();
    let mut letters = quoted.char_indices();
    while let Some((index, letter)) = letters.next() {
        match letter {
            '"' => return Ok((text, quoted.get(index + 1..).unwrap_or_default())),
            '\\' => {
                let mut next = letters.clone();
                if let Some((_, escaped @ ('"' | '\\'))) = next.next() {
                    text.push(escaped);
                    letters = next;
                } else {
                    text.push('\\');
                }
            }
            _ => text.push(letter),
        }
    }
    Err(malformed("a quote is not closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    type Parts = Vec<(Part, Vec<u8>)>;

    /// Gives the bytes in small pieces, to move the boundary over the ends of reads.
    struct Pieces<'a>(&'a [u8], usize);

    impl Read for Pieces<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(self.1).min(out.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn read(text: &[u8], piece: usize) -> Result<Parts, Error> {
        let mut form = Form::new(Pieces(text, piece), "XX");
        let mut parts = Vec::new();
        while let Some(part) = form.next()? {
            let mut content = Vec::new();
            form.read_to_end(&mut content)?;
            parts.push((part, content));
        }
        Ok(parts)
    }

    const FORM: &[u8] = b"--XX\r\nContent-Disposition: form-data; name=\"file\"; filename=\"d/\xc3\xa9 \\\"b%22.txt\"\r\n\
        Content-Type: text/plain\r\n\r\none\r\n--X\r\n-\r\r\n--XX\r\ncontent-disposition: form-data; name=file\r\n\r\n\r\n--XX--\r\n";

    #[test]
    fn parts_are_read_wherever_the_pieces_end() {
        for piece in 1..FORM.len() {
            let parts = read(FORM, piece).unwrap();
            let file_name = Some("d/\u{e9} \"b%22.txt".to_owned());
            let first = Part { name: "file".into(), file_name };
            let second = Part { name: "file".into(), file_name: None };
            assert_eq!(parts, [(first, b"one\r\n--X\r\n-\r".to_vec()), (second, Vec::new())]);
        }
    }

    #[test]
    fn a_form_may_end_without_a_last_line_end_and_skip_contents() {
        let text = &FORM[..FORM.len() - 2];
        let mut form = Form::new(text, "XX");
        assert!(form.next().unwrap().is_some() && form.next().unwrap().is_some());
        assert_eq!(form.next().unwrap(), None);
        assert_eq!(form.next().unwrap(), None);
    }

    #[test]
    fn a_form_that_is_cut_short_is_an_error() {
        for length in 0..FORM.len() - 4 {
            assert!(read(&FORM[..length], 7).is_err(), "{length}");
        }
    }

    #[test]
    fn long_headers_and_parts_without_a_name_are_refused() {
        let long = [b"--XX\r\nA: ", &[b'a'; LARGEST_HEADERS][..], b"\r\n\r\n\r\n--XX--"].concat();
        assert!(read(&long, 1000).is_err());
        assert!(read(b"--XX\r\n\r\nabc\r\n--XX--", 1000).is_err());
        assert!(read(b"--XXY\r\n\r\nabc\r\n--XX--", 1000).is_err());
    }

    #[test]
    fn a_boundary_comes_from_the_content_type() {
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\"; x=y").unwrap(), "a b");
        assert_eq!(boundary("multipart/form-data;boundary=1ae").unwrap(), "1ae");
        assert!(boundary("multipart/form-data").is_err());
        assert!(boundary(&format!("multipart/form-data; boundary={}", "a".repeat(71))).is_err());
    }
}
