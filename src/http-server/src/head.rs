//! A request's head: the method, the target, the headers, and how its body is framed.

use std::borrow::Cow;
use std::fmt;

use crate::method::Method;
use crate::refusal::Refusal;

/// The largest head, in bytes.
pub(crate) const LARGEST: usize = 16 * 1024;

const MOST_HEADERS: usize = 64;

/// The head of a request.
pub struct Head {
    /// The method.
    pub method: Method,
    /// The path and the query as they came: ASCII, begins with `/`.
    pub target: String,
    headers: Vec<(String, String)>,
    pub(crate) framing: Framing,
    pub(crate) keeps_alive: bool,
    /// HTTP/1.1, otherwise HTTP/1.0.
    pub(crate) is_1_1: bool,
}

/// Where a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

impl Head {
    /// The head at the beginning of `bytes`, and its size; `None` if it is incomplete.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, Refusal> {
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
        // The parser accepts LF alone. A proxy may not, and see other headers than we do.
        if has_bare_lf(bytes.get(..size).unwrap_or_default()) {
            return Err(Refusal::bad("a line ends without CR"));
        }
        let target = request.path.unwrap_or_default();
        if !target.starts_with('/') || !target.is_ascii() {
            return Err(Refusal::bad("a request's target is a path in ASCII"));
        }
        let method = Method::parse(request.method.unwrap_or_default());
        let is_1_1 = request.version == Some(1);
        let headers = request.headers.iter().map(text).collect::<Result<Vec<_>, _>>()?;
        let mut head = Self {
            method,
            target: target.to_owned(),
            headers,
            framing: Framing::Length(0),
            keeps_alive: false,
            is_1_1,
        };
        head.framing = head.body_framing()?;
        if head.all("host").count() > 1 {
            return Err(Refusal::bad("there are several Host headers"));
        }
        head.keeps_alive = is_1_1 && !head.has_word("connection", "close");
        Ok(Some((head, size)))
    }

    /// The value of the first header of this name. Case does not matter in names.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// All headers in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Whether a header that is a list of words, such as Connection, has `word`.
    #[must_use]
    pub fn has_word(&self, name: &str, word: &str) -> bool {
        let mut words = self.all(name).flat_map(|value| value.split(','));
        words.any(|one| one.trim().eq_ignore_ascii_case(word))
    }

    /// The path without the query, as it came.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// The value of a parameter of the query, as it came.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.target.split_once('?')?;
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// The value of a parameter of the query, decoded as forms are: `+` and `%20` are a space.
    pub fn query(&self, name: &str) -> Result<Option<String>, Refusal> {
        let Some(value) = self.parameter(name) else {
            return Ok(None);
        };
        let value = value.replace('+', " ");
        let value = percent_encoding::percent_decode_str(&value).decode_utf8().map(Cow::into_owned);
        value.map(Some).map_err(|_| Refusal::bad(format!("the parameter `{name}` is not UTF-8")))
    }

    /// The token of an `Authorization: Bearer` header.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        let (scheme, token) = self.header("authorization")?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    }

    /// The Host header, which has only characters of a host and a port.
    pub fn host(&self) -> Result<&str, Refusal> {
        let host = self.header("host").unwrap_or_default();
        let plain =
            |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b':' | b'[' | b']');
        if host.is_empty() || host.len() > 255 || !host.bytes().all(plain) {
            return Err(Refusal::bad("the Host header is missing or no host"));
        }
        Ok(host)
    }

    pub(crate) fn expects_continue(&self) -> bool {
        self.is_1_1
            && self.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"))
    }

    /// Refuses what would let two programs disagree about where a body ends.
    fn body_framing(&self) -> Result<Framing, Refusal> {
        let mut lengths = self.all("content-length");
        let mut codings = self.all("transfer-encoding");
        match (lengths.next(), lengths.next(), codings.next(), codings.next()) {
            (None, _, None, _) => Ok(Framing::Length(0)),
            (Some(length), None, None, _) => number(length).map(Framing::Length),
            (Some(_), Some(_), None, _) => Err(several_lengths()),
            (Some(_), _, Some(_), _) => {
                Err(Refusal::bad("there are a Content-Length and a Transfer-Encoding"))
            }
            (None, _, Some(_), _) if !self.is_1_1 => {
                Err(Refusal::bad("HTTP/1.0 has no Transfer-Encoding"))
            }
            (None, _, Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => {
                Ok(Framing::Chunked)
            }
            (None, _, Some(_), _) => Err(Refusal::UnknownCoding),
        }
    }

    /// The values of all headers of this name.
    fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let same = move |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str())
    }
}

fn number(length: &str) -> Result<u64, Refusal> {
    let is_number = !length.is_empty() && length.bytes().all(|c| c.is_ascii_digit());
    length.parse().ok().filter(|_| is_number).ok_or_else(several_lengths)
}

fn several_lengths() -> Refusal {
    Refusal::bad("the Content-Length is not one number")
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    let mut before = 0;
    bytes.iter().any(|&byte| std::mem::replace(&mut before, byte) != b'\r' && byte == b'\n')
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
    fn a_head_is_parsed() {
        let head = parse(
            "POST /a/b?x=1&y=2 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nAuthorization: Bearer t\r\n\
             content-length: 12\r\n\r\n",
        )
        .unwrap();

        assert_eq!(
            (head.method, head.path(), head.framing),
            (Method::Post, "/a/b", Framing::Length(12))
        );
        assert_eq!((head.parameter("y"), head.parameter("z")), (Some("2"), None));
        assert_eq!(head.bearer(), Some("t"));
        assert_eq!(head.host().unwrap(), "127.0.0.1:80");
        assert!(head.keeps_alive);
    }

    #[test]
    fn an_incomplete_head_is_awaited_up_to_a_limit() {
        assert!(Head::parse(b"GET / HTTP/1.1\r\nHost:").unwrap().is_none());
        let long = format!("GET /{} HTTP/1.1\r\n", "a".repeat(LARGEST));
        let refused = Head::parse(long.as_bytes()).unwrap_err();
        assert_eq!(refused.status(), 431);
    }

    #[test]
    fn bodies_of_ambiguous_length_are_rejected() {
        let statuses = [
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: +1",
            "Content-Length: 1, 1",
            "Content-Length: 99999999999999999999",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding:\x0bchunked",
            "Transfer-Encoding : chunked",
            "X: y\r\n Transfer-Encoding: chunked",
            "X: y\nTransfer-Encoding: chunked",
        ]
        .map(|header| parse(&format!("POST / HTTP/1.1\r\n{header}\r\n\r\n")).unwrap_err().status());

        assert_eq!(statuses, [400, 400, 400, 400, 400, 400, 501, 501, 501, 400, 400, 400, 400]);
    }

    #[test]
    fn the_coding_of_a_body_is_chunked_or_none() {
        let chunked = parse("POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n").unwrap();
        let none = parse("DELETE / HTTP/1.1\r\n\r\n").unwrap();
        let old = parse("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap_err();

        assert_eq!(chunked.framing, Framing::Chunked);
        assert_eq!((none.method, none.framing), (Method::Delete, Framing::Length(0)));
        assert_eq!(old.status(), 400);
    }

    #[test]
    fn parameters_are_decoded_as_forms_are() {
        let head = parse("GET /?a=x+y%20%2B%C3%BC&b=%ff&c HTTP/1.1\r\n\r\n").unwrap();

        assert_eq!(head.query("a").unwrap().unwrap(), "x y +\u{fc}");
        assert_eq!(head.query("b").unwrap_err().status(), 400);
        assert_eq!(head.query("c").unwrap(), None);
    }

    #[test]
    fn two_hosts_are_refused() {
        let refused = parse("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").unwrap_err();

        assert_eq!(refused.status(), 400);
    }

    #[test]
    fn a_host_header_that_would_change_the_url_is_rejected() {
        let head = parse("GET / HTTP/1.1\r\nHost: evil/x?\r\n\r\n").unwrap();

        assert_eq!(head.host().unwrap_err().status(), 400);
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
