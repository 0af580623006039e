//! DNS messages: reads a query, and writes responses that need no server (RFC 1035, RFC 9460).

use std::net::Ipv4Addr;

/// The length of the header.
pub(super) const HEADER: usize = 12;
/// The flag of responses.
pub(super) const QR: u8 = 0x80;
/// The TTL of our records, in seconds: clients do not cache them.
const TTL: [u8; 4] = [0; 4];
/// The type of records with an IPv4 address.
const A: u16 = 1;
/// Types of records that can carry the key for an encrypted server name (ECH).
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
/// The class Internet.
const IN: u16 = 1;

/// The question of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) name: String,
    qtype: u16,
    /// The offset of its end in the message.
    end: usize,
}

impl Question {
    /// Reads a standard query with exactly one question; `None` for any other message.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let flags = message.get(2)?;
        let opcode = flags >> 3 & 0xf;
        if flags & QR != 0 || opcode != 0 || message.get(4..6)? != [0, 1] {
            return None;
        }
        let (mut name, mut at) = (String::new(), HEADER);
        loop {
            let length = usize::from(*message.get(at)?);
            let label = message.get(at + 1..at + 1 + length)?;
            at += 1 + length;
            if length == 0 {
                break;
            }
            // A length over 63 is a compression pointer, which no question needs.
            let is_plain = label.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'.');
            if length > 63 || !is_plain {
                return None;
            }
            if !name.is_empty() {
                name.push('.');
            }
            name.push_str(&String::from_utf8_lossy(label));
        }
        let [a, b, c, d] = *message.get(at..at + 4)?.first_chunk::<4>()?;
        let (qtype, class) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        (class == IN).then_some(Self { name, qtype, end: at + 4 })
    }

    /// Whether the response could let the guest encrypt the server name in TLS.
    pub(super) fn is_service_binding(&self) -> bool {
        matches!(self.qtype, SVCB | HTTPS)
    }

    /// A response with one A record; without records for other types.
    pub(super) fn response(&self, message: &[u8], address: Ipv4Addr) -> Vec<u8> {
        const POINTER: [u8; 2] = [0xc0, HEADER as u8];
        let mut response = self.nodata(message);
        if self.qtype == A {
            if let Some(count) = response.get_mut(7) {
                *count = 1;
            }
            response.extend(POINTER);
            response.extend(A.to_be_bytes());
            response.extend(IN.to_be_bytes());
            response.extend(TTL);
            response.extend([0, 4]);
            response.extend(address.octets());
        }
        response
    }

    /// NODATA (RFC 2308): the name has no records of this type.
    pub(super) fn nodata(&self, message: &[u8]) -> Vec<u8> {
        let mut response = message.get(..self.end).unwrap_or_default().to_vec();
        if let [_, _, flags, code, _, _, counts @ ..] = response.as_mut_slice() {
            *flags |= QR;
            // RA is set; the response code is NOERROR.
            *code = 0x80;
            counts.iter_mut().take(HEADER - 6).for_each(|count| *count = 0);
        }
        response
    }
}

/// The IPv4 addresses in the answers of a response; `None` if it is malformed, or no response to this query.
pub(super) fn addresses(query: &[u8], response: &[u8]) -> Option<Vec<Ipv4Addr>> {
    let end = Question::read(query)?.end;
    let (asked, answered) = (query.get(HEADER..end)?, response.get(HEADER..end)?);
    let is_response = response.get(2)? & QR != 0 && response.get(4..6)? == [0, 1];
    if !is_response || !asked.eq_ignore_ascii_case(answered) {
        return None;
    }
    let count = u16::from_be_bytes(*response.get(6..8)?.first_chunk()?);
    let (mut addresses, mut at) = (Vec::new(), end);
    for _ in 0..count {
        at = skip_name(response, at)?;
        let [a, b, c, d, _, _, _, _, e, f] = *response.get(at..)?.first_chunk::<10>()?;
        let (qtype, class) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let data = response.get(at + 10..at + 10 + usize::from(u16::from_be_bytes([e, f])))?;
        at += 10 + data.len();
        if let (A, IN, Ok(address)) = (qtype, class, <[u8; 4]>::try_from(data)) {
            addresses.push(address.into());
        }
    }
    Some(addresses)
}

/// The offset behind a name, which may end with a compression pointer.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(qtype: u8) -> Vec<u8> {
        let header = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        [&header[..], b"\x01a\x03Org\0\0", &[qtype, 0, 1], b"more"].concat()
    }

    #[test]
    fn a_query_is_read_with_its_name_and_type() {
        let question = Question::read(&message(1)).unwrap();
        assert_eq!((question.name.as_str(), question.qtype), ("a.Org", 1));
        for length in 0..message(1).len() - 4 {
            assert_eq!(Question::read(&message(1)[..length]), None);
        }
    }

    #[test]
    fn a_message_that_is_not_a_query_for_one_name_is_rejected() {
        for (at, byte) in [(2, 0x81), (2, 0x28), (5, 2), (12, 0xc0), (13, b'.'), (13, b' ')] {
            let mut message = message(1);
            message[at] = byte;
            assert_eq!(Question::read(&message), None, "{at}");
        }
    }

    #[test]
    fn the_addresses_of_a_response_are_read_behind_an_alias() {
        let query = message(1);
        let end = Question::read(&query).unwrap().end;
        let mut response = query[..end].to_vec();
        (response[2], response[7]) = (0x81, 2);
        response.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\0\0\x04\x01b\xc0\x0e");
        response.extend(b"\x01b\xc0\x0e\0\x01\0\x01\0\0\0\0\0\x04\x09\x08\x07\x06");
        assert_eq!(addresses(&query, &response), Some(vec![Ipv4Addr::new(9, 8, 7, 6)]));
        for length in 0..response.len() {
            assert_eq!(addresses(&query, &response[..length]), None, "{length}");
        }
        let other = [&query[..13], b"x", &query[14..]].concat();
        assert_eq!(addresses(&other, &response), None);
    }

    #[test]
    fn a_response_repeats_the_question_and_has_one_address() {
        let query = message(1);
        let question = Question::read(&query).unwrap();
        let response = question.response(&query, Ipv4Addr::new(9, 8, 7, 6));
        assert_eq!(response[..12], [7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(response[12..23], query[12..23]);
        assert!(response.ends_with(&[0, 4, 9, 8, 7, 6]));
        let other = message(28);
        let question = Question::read(&other).unwrap();
        let none = question.response(&other, Ipv4Addr::UNSPECIFIED);
        assert_eq!((none.len(), none[7]), (23, 0));
        assert!(Question::read(&message(65)).unwrap().is_service_binding());
    }
}
