//! Parses an HTTP response from hostile bytes.

/// The longest head: a status line and a few headers.
const HEAD: usize = 4 << 10;
const HEADERS: usize = 32;

/// A complete response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// The result of parsing the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A reply, and its length in bytes.
    Complete(Reply, usize),
    /// The beginning of a reply.
    Incomplete,
    /// Not a reply, with the reason.
    Malformed(String),
    /// A reply whose head or body is too long.
    TooLong,
}

/// Parses a reply at the beginning of `bytes`. Its body has at most `limit` bytes.
pub(super) fn parse(bytes: &[u8], limit: usize) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let head = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head)) if head <= HEAD => head,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD => return Parsed::Incomplete,
        Ok(_) => return Parsed::TooLong,
        Err(error) => return Parsed::Malformed(error.to_string()),
    };
    let Some(status) = response.code else {
        return Parsed::Malformed("no status".into());
    };
    let length = match length(response.headers) {
        Ok(length) => length,
        Err(reason) => return Parsed::Malformed(reason),
    };
    if length > limit {
        return Parsed::TooLong;
    }
    let end = head + length;
    match bytes.get(head..end) {
        Some(body) => Parsed::Complete(Reply { status, body: body.to_vec() }, end),
        None => Parsed::Incomplete,
    }
}

/// The length of the body. Firecracker sends it unless there is no body.
fn length(headers: &[httparse::Header<'_>]) -> Result<usize, String> {
    let mut length = None;
    for header in headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("its body has no length".into());
        }
        if !header.name.eq_ignore_ascii_case("content-length") {
            continue;
        }
        let value = std::str::from_utf8(header.value).unwrap_or_default().trim();
        let value = value.parse::<usize>().map_err(|_| format!("its length is `{value}`"))?;
        if length.is_some_and(|other| other != value) {
            return Err("it has two lengths".into());
        }
        length = Some(value);
    }
    Ok(length.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, body: body.into() }
    }

    #[test]
    fn a_reply_without_a_body_is_complete_at_its_empty_line() {
        let bytes = b"HTTP/1.1 204 \r\nServer: Firecracker API\r\n\r\nHTTP";
        assert_eq!(parse(bytes, 10), Parsed::Complete(reply(204, ""), bytes.len() - 4));
    }

    #[test]
    fn a_reply_is_incomplete_until_its_whole_body_is_received() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end], 10), Parsed::Incomplete);
        }
        assert_eq!(parse(bytes, 10), Parsed::Complete(reply(200, "body"), bytes.len()));
    }

    #[test]
    fn a_body_over_the_limit_is_refused_at_once() {
        let bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n";
        assert_eq!(parse(bytes, 10), Parsed::TooLong);
        let bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", usize::MAX);
        assert_eq!(parse(bytes.as_bytes(), 10), Parsed::TooLong);
    }

    #[test]
    fn a_head_without_an_end_is_refused() {
        let mut bytes = b"HTTP/1.1 200 OK\r\nX: ".to_vec();
        bytes.resize(HEAD + 1, b'x');
        assert_eq!(parse(&bytes, 10), Parsed::TooLong);
    }

    #[test]
    fn an_invalid_content_length_is_malformed() {
        for length in ["-1", "ten", "99999999999999999999999", "1\r\nContent-Length: 2"] {
            let bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            assert!(matches!(parse(bytes.as_bytes(), 10), Parsed::Malformed(_)), "{length}");
        }
    }
}
