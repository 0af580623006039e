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
