//! The HTTP/1.1 of two requests: a POST and the WebSocket upgrade.
//!
//! Not by a library: libraries log what they send and receive, which contains the token.

use std::io::{self, ErrorKind, Read, Write};

/// The longest head of a response.
const MAX_HEAD: usize = 16 << 10;

/// The most interim responses (1xx) before the response.
const MAX_INTERIM_RESPONSES: u32 = 8;

/// The longest body of a response.
const MAX_BODY: usize = 256 << 10;

/// The head of a response, and the bytes after it.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    rest: Vec<u8>,
}

impl Response {
    /// Sends a request and reads the head of its response.
    pub(crate) fn to(stream: &mut (impl Read + Write), request: &[u8]) -> io::Result<Self> {
        stream.write_all(request)?;
        stream.flush()?;
        let mut bytes = Vec::new();
        let mut interim_responses = 0;
        loop {
            match parse(&bytes)? {
                // 1xx except 101 is an interim response.
                Some(answer) if answer.status < 200 && answer.status != 101 => {
                    interim_responses += 1;
                    if interim_responses > MAX_INTERIM_RESPONSES {
                        return Err(bad("the answer is announced without end"));
                    }
                    bytes = answer.rest;
                }
                Some(answer) => return Ok(answer),
                None if bytes.len() > MAX_HEAD => {
                    return Err(bad("the answer's head is too long"));
                }
                None => more(stream, &mut bytes)?,
            }
        }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    /// What came after the head.
    pub(crate) fn into_rest(self) -> Vec<u8> {
        self.rest
    }

    /// Reads the whole body.
    pub(crate) fn body(mut self, stream: &mut impl Read) -> io::Result<Vec<u8>> {
        let encoding = self.header("transfer-encoding");
        if encoding.is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked")) {
            return chunked(stream, self.rest);
        }
        let Some(length) = self.header("content-length") else {
            return until_end(stream, self.rest);
        };
        let length: usize = length.parse().map_err(|_| bad("the answer's length is no number"))?;
        if length > MAX_BODY {
            return Err(bad("the answer is too long"));
        }
        while self.rest.len() < length {
            more(stream, &mut self.rest)?;
        }
        self.rest.truncate(length);
        Ok(self.rest)
    }
}

fn parse(bytes: &[u8]) -> io::Result<Option<Response>> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut response = httparse::Response::new(&mut headers);
    let parsed = response.parse(bytes).map_err(|_| bad("the answer is no HTTP"))?;
    let httparse::Status::Complete(length) = parsed else {
        return Ok(None);
    };
    let headers = response
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()));
    Ok(Some(Response {
        status: response.code.unwrap_or(0),
        headers: headers.collect(),
        rest: bytes.get(length..).unwrap_or_default().to_vec(),
    }))
}

fn chunked(stream: &mut impl Read, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let parsed =
            httparse::parse_chunk_size(&bytes).map_err(|_| bad("a chunk has no length"))?;
        let httparse::Status::Complete((head, length)) = parsed else {
            more(stream, &mut bytes)?;
            continue;
        };
        if length == 0 {
            // What may follow is of no interest: the connection is not used again.
            return Ok(body);
        }
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length > MAX_BODY - body.len() {
            return Err(bad("the answer is too long"));
        }
        let end = head + length;
        while bytes.len() < end + 2 {
            more(stream, &mut bytes)?;
        }
        body.extend_from_slice(bytes.get(head..end).unwrap_or_default());
        bytes.drain(..end + 2);
    }
}

fn until_end(stream: &mut impl Read, mut bytes: Vec<u8>) -> io::Result<Vec<u8>> {
    loop {
        match more(stream, &mut bytes) {
            Ok(()) if bytes.len() > MAX_BODY => return Err(bad("the answer is too long")),
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(bytes),
            Err(error) => return Err(error),
        }
    }
}

fn more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer)?;
    if count == 0 {
        return Err(io::Error::new(ErrorKind::UnexpectedEof, "the answer was cut short"));
    }
    bytes.extend_from_slice(buffer.get(..count).unwrap_or_default());
    Ok(())
}

fn bad(text: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A peer that says its pieces, whatever it is asked.
    struct Script(Vec<&'static [u8]>);

    impl Read for Script {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let piece = self.0.remove(0);
            buffer[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn body_of(pieces: &[&'static [u8]]) -> io::Result<Vec<u8>> {
        let mut script = Script(pieces.to_vec());
        Response::to(&mut script, b"")?.body(&mut script)
    }

    #[test]
    fn a_body_with_a_length_ends_there() {
        let body = body_of(&[b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\nab", b"cdef"]);

        assert_eq!(body.unwrap(), b"abcd");
    }

    #[test]
    fn a_chunked_body_is_put_together() {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab";
        let body = body_of(&[head, b"\r\n1", b"0;x\r\n0123456789abcdef\r\n0\r\n\r\n"]);

        assert_eq!(body.unwrap(), b"ab0123456789abcdef");
    }

    #[test]
    fn a_body_without_a_length_ends_with_the_connection() {
        assert_eq!(body_of(&[b"HTTP/1.0 200 OK\r\n\r\na", b"b"]).unwrap(), b"ab");
    }

    #[test]
    fn interim_responses_are_skipped() {
        let body = body_of(&[
            b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        ]);

        assert_eq!(body.unwrap(), b"x");
    }

    #[test]
    fn interim_responses_without_end_are_an_error() {
        let interim_responses = vec![&b"HTTP/1.1 103 Early Hints\r\n\r\n"[..]; 100];

        let error = body_of(&interim_responses).unwrap_err();

        assert_eq!(error.to_string(), "the answer is announced without end");
    }

    #[test]
    fn a_cut_body_is_an_error() {
        body_of(&[b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab"]).unwrap_err();
        body_of(&[b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nab"]).unwrap_err();
    }

    #[test]
    fn an_announced_size_allocates_no_memory() {
        let huge = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n";

        body_of(&[huge]).unwrap_err();
        body_of(&[b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"]).unwrap_err();
    }

    #[test]
    fn an_endless_head_is_refused() {
        let mut pieces: Vec<&'static [u8]> = vec![b"HTTP/1.1 200 OK\r\n"];
        pieces.extend(vec![&[b'a'; 1024][..]; 32]);

        assert_eq!(body_of(&pieces).unwrap_err().to_string(), "the answer's head is too long");
    }
}
