//! What a question for a name is, and answers that need nobody else.

use std::net::Ipv4Addr;

/// The length of a message's header.
pub(super) const HEADER: usize = 12;
/// A message is an answer.
pub(super) const ANSWER: u8 = 0x80;
/// An answer that may be kept is kept so long, in seconds: not at all.
const TIME_TO_LIVE: [u8; 4] = [0; 4];
/// Records that tell how a host is reached otherwise than by its name: with an encrypted one.
const SERVICES: [u16; 2] = [64, 65];
const ADDRESS: u16 = 1;
const INTERNET: u16 = 1;

/// A question for one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) name: String,
    kind: u16,
    /// Where it ends in its message.
    end: usize,
}

impl Question {
    /// None if the message is anything else: nobody asks for two names at once.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let flags = message.get(2)?;
        let opcode = flags >> 3 & 0xf;
        if flags & ANSWER != 0 || opcode != 0 || message.get(4..6)? != [0, 1] {
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
            // What is longer is a pointer, which a question has no use for.
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
        let (kind, class) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        (class == INTERNET).then_some(Self { name, kind, end: at + 4 })
    }

    /// Whether the answer could only help to hide which host is meant.
    pub(super) fn is_of_services(&self) -> bool {
        SERVICES.contains(&self.kind)
    }

    /// The answer that the name has this address, and nothing else.
    pub(super) fn answer(&self, message: &[u8], address: Ipv4Addr) -> Vec<u8> {
        const POINTER: [u8; 2] = [0xc0, HEADER as u8];
        let mut answer = self.nothing(message);
        if self.kind == ADDRESS {
            if let Some(count) = answer.get_mut(7) {
                *count = 1;
            }
            answer.extend(POINTER);
            answer.extend(ADDRESS.to_be_bytes());
            answer.extend(INTERNET.to_be_bytes());
            answer.extend(TIME_TO_LIVE);
            answer.extend([0, 4]);
            answer.extend(address.octets());
        }
        answer
    }

    /// The answer that there is nothing of this kind.
    pub(super) fn nothing(&self, message: &[u8]) -> Vec<u8> {
        let mut answer = message.get(..self.end).unwrap_or_default().to_vec();
        if let [_, _, flags, code, _, _, counts @ ..] = answer.as_mut_slice() {
            *flags |= ANSWER;
            // Recursion is available, and all is well.
            *code = 0x80;
            counts.iter_mut().take(HEADER - 6).for_each(|count| *count = 0);
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8) -> Vec<u8> {
        let header = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        [&header[..], b"\x01a\x03Org\0\0", &[kind, 0, 1], b"more"].concat()
    }

    #[test]
    fn a_question_has_a_name() {
        let question = Question::read(&message(1)).unwrap();
        assert_eq!((question.name.as_str(), question.kind), ("a.Org", 1));
        for length in 0..message(1).len() - 4 {
            assert_eq!(Question::read(&message(1)[..length]), None);
        }
    }

    #[test]
    fn what_is_no_question_for_one_name_is_none() {
        for (at, byte) in [(2, 0x81), (2, 0x28), (5, 2), (12, 0xc0), (13, b'.'), (13, b' ')] {
            let mut message = message(1);
            message[at] = byte;
            assert_eq!(Question::read(&message), None, "{at}");
        }
    }

    #[test]
    fn an_answer_has_the_question_and_an_address() {
        let asked = message(1);
        let question = Question::read(&asked).unwrap();
        let answer = question.answer(&asked, Ipv4Addr::new(9, 8, 7, 6));
        assert_eq!(answer[..12], [7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(answer[12..23], asked[12..23]);
        assert!(answer.ends_with(&[0, 4, 9, 8, 7, 6]));
        let other = message(28);
        let question = Question::read(&other).unwrap();
        let none = question.answer(&other, Ipv4Addr::UNSPECIFIED);
        assert_eq!((none.len(), none[7]), (23, 0));
        assert!(Question::read(&message(65)).unwrap().is_of_services());
    }
}
