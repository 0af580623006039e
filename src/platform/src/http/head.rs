//! A request's head: what it asks for, and what is said about its body.

use std::fmt;

use crate::Refusal;

/// The most bytes of a head.
pub(super) const LARGEST: usize = 16 * 1024;

const MOST_HEADERS: usize = 64;

/// What a request wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Put,
    Post,
    Other,
}

impl Method {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Put => "PUT",
            Self::Post => "POST",
            Self::Other => "other",
        }
    }
}

/// The head of a request.
pub(crate) struct Head {
    pub(crate) method: Method,
    /// What is asked for, with its query: ASCII, begins with `/`.
    pub(crate) target: String,
    headers: Vec<(String, String)>,
    pub(super) length: u64,
    pub(super) keeps_alive: bool,
}

impl Head {
    /// The head at the beginning of `bytes`, and how long it is; `None` if it is not whole yet.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Refusal> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut request = httparse::Request::new(&mut headers);
        let size = match request.parse(bytes) {
            Ok(httparse::Status::Complete(size)) if size <= LARGEST => size,
            Ok(httparse::Status::Partial) if bytes.len() < LARGEST => return Ok(None),
            Ok(_) | Err(httparse::Error::TooManyHeaders) => {
                return Err(Refusal::HeadTooLarge { limit: LARGEST });
            }
            Err(error) => return Err(Refusal::bad(format!("this is no HTTP: {error}"))),
        };
        let target = request.path.unwrap_or_default();
        if !target.starts_with('/') || !target.is_ascii() {
            return Err(Refusal::bad("a request's target is a path in ASCII"));
        }
        let method = match request.method {
            Some("GET") => Method::Get,
            Some("PUT") => Method::Put,
            Some("POST") => Method::Post,
            _ => Method::Other,
        };
        let is_new = request.version == Some(1);
        let headers = request.headers.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let mut head =
            Self { method, target: target.to_owned(), headers, length: 0, keeps_alive: is_new };
        head.length = head.body_length()?;
        let connection = head.header("connection").unwrap_or_default().to_ascii_lowercase();
        head.keeps_alive = is_new && !connection.split(',').any(|word| word.trim() == "close");
        Ok(Some((head, size)))
    }

    /// The value of a header, if it is there.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let same = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        self.headers.iter().find(same).map(|(_, value)| value.as_str())
    }

    /// The path that is asked for, without the query.
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The value of a parameter of the query.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The secret that the client authenticates with.
    pub(crate) fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// How the client reached us: `http://` and its Host header.
    pub(crate) fn origin(&self) -> Result<String, Refusal> {
        let host = self.header("host").unwrap_or_default();
        let plain =
            |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b':' | b'[' | b']');
        if host.is_empty() || host.len() > 255 || !host.bytes().all(plain) {
            return Err(Refusal::bad("the Host header is missing or no host"));
        }
        Ok(format!("http://{host}"))
    }

    pub(super) fn expects_continue(&self) -> bool {
        self.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    /// What would let two programs disagree about where a body ends is refused.
    fn body_length(&self) -> Result<u64, Refusal> {
        if self.header("transfer-encoding").is_some() {
            return Err(Refusal::LengthRequired);
        }
        let name = "content-length";
        let count =
            self.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name)).count();
        let Some(length) = self.header(name) else {
            return match self.method {
                Method::Put => Err(Refusal::LengthRequired),
                _ => Ok(0),
            };
        };
        let is_number = !length.is_empty() && length.bytes().all(|c| c.is_ascii_digit());
        match length.parse() {
            Ok(number) if is_number && count == 1 => Ok(number),
            _ => Err(Refusal::bad("the Content-Length is not one number")),
        }
    }
}

/// Tokens and signatures are not to be seen.
impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Head").field("method", &self.method).field("path", &self.path()).finish()
    }
}

fn text(header: &httparse::Header<'_>) -> Result<(String, String), Refusal> {
    let value =
        std::str::from_utf8(header.value).map_err(|_| Refusal::bad("a header is not UTF-8"))?;
    Ok((header.name.to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Head, Refusal> {
        Head::parse(text.as_bytes()).map(|parsed| parsed.unwrap().0)
    }

    #[test]
    fn a_head_is_taken_apart() {
        let head = parse(
            "POST /a/b?x=1&y=2 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAuthorization: Bearer t\r\n\
             content-length: 12\r\n\r\n",
        )
        .unwrap();

        assert_eq!((head.method, head.path(), head.length), (Method::Post, "/a/b", 12));
        assert_eq!((head.parameter("y"), head.parameter("z")), (Some("2"), None));
        assert_eq!(head.bearer(), Some("t"));
        assert_eq!(head.origin().unwrap(), "http://127.0.0.1:80");
        assert!(head.keeps_alive);
    }

    #[test]
    fn a_head_that_is_not_whole_is_waited_for_up_to_a_limit() {
        assert!(Head::parse(b"GET / HTTP/1.1\r\nHost:").unwrap().is_none());
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(LARGEST));
        let refused = Head::parse(long.as_bytes()).unwrap_err();
        assert_eq!(refused.status(), 431);
    }

    #[test]
    fn bodies_of_unclear_length_are_refused() {
        let statuses = [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: chunked",
        ]
        .map(|header| parse(&format!("POST / HTTP/1.1\r\n{header}\r\n\r\n")).unwrap_err().status());

        assert_eq!(statuses, [400, 400, 400, 400, 411]);
    }

    #[test]
    fn a_host_that_would_change_the_url_is_refused() {
        let head = parse("GET / HTTP/1.1\r\nHost: evil/x?\r\n\r\n").unwrap();

        assert_eq!(head.origin().unwrap_err().status(), 400);
    }

    #[test]
    fn connections_end_when_either_version_or_header_says_so() {
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keeps_alive);
        assert!(!parse("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n").unwrap().keeps_alive);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Head::parse(&bytes);
        }
    }
}
