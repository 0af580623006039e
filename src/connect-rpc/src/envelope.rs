//! The envelopes of a streaming call.

use std::io::{self, Read};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{Error, ReadError};

const COMPRESSED: u8 = 1;
const END: u8 = 2;

const HEAD: usize = 5;

/// Reads the messages of a request.
#[derive(Debug)]
pub struct EnvelopeReader<R> {
    from: R,
    limit: usize,
}

impl<R: Read> EnvelopeReader<R> {
    /// Reads messages of at most `limit` bytes.
    pub fn new(from: R, limit: usize) -> Self {
        Self { from, limit }
    }

    /// The next message; `None` at the end of the request.
    pub fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, ReadError> {
        let Some([flags, length @ ..]) = self.head()? else { return Ok(None) };
        if flags & COMPRESSED != 0 {
            return Err(ReadError::Compressed);
        }
        let length = u32::from_be_bytes(length);
        if u64::from(length) > self.limit as u64 {
            return Err(ReadError::TooLarge { length: length.into(), limit: self.limit });
        }
        // Grows as bytes come: a length alone takes no memory.
        let mut bytes = Vec::new();
        let read = (&mut self.from).take(length.into()).read_to_end(&mut bytes);
        read.map_err(|source| ReadError::Read { source })?;
        if bytes.len() < length as usize {
            return Err(ReadError::CutShort);
        }
        serde_json::from_slice(&bytes).map(Some).map_err(|source| ReadError::Json { source })
    }

    /// The message of a call that has exactly one; further bytes are left unread.
    pub fn one<T: DeserializeOwned>(&mut self) -> Result<T, ReadError> {
        self.read()?.ok_or(ReadError::Empty)
    }

    fn head(&mut self) -> Result<Option<[u8; HEAD]>, ReadError> {
        let mut head = [0; HEAD];
        let mut filled = 0;
        while let Some(rest) = head.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.from.read(rest) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ReadError::CutShort),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(ReadError::Read { source }),
            }
        }
        Ok(Some(head))
    }
}

/// An envelope with a message of a reply.
pub fn message(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut bytes = vec![0; HEAD];
    serde_json::to_writer(&mut bytes, message)?;
    Ok(sealed(bytes, 0))
}

/// The last envelope of a reply.
pub fn end(result: Result<(), &Error>) -> Vec<u8> {
    let end = match result {
        Ok(()) => json!({}),
        Err(error) => json!({ "error": error }),
    };
    let mut bytes = vec![0; HEAD];
    bytes.extend_from_slice(end.to_string().as_bytes());
    sealed(bytes, END)
}

/// Writes the head into the first bytes of `bytes`.
fn sealed(mut bytes: Vec<u8>, flags: u8) -> Vec<u8> {
    let length = u32::try_from(bytes.len() - HEAD).unwrap_or(u32::MAX).to_be_bytes();
    bytes.splice(..HEAD, std::iter::once(flags).chain(length));
    bytes
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::Code;

    fn reader(bytes: &[u8]) -> EnvelopeReader<&[u8]> {
        EnvelopeReader::new(bytes, 64)
    }

    #[test]
    fn messages_are_read_in_order_to_the_end_of_the_request() {
        let bytes = [message(&json!({"a": 1})).unwrap(), message(&json!("b")).unwrap()].concat();
        let mut reader = reader(&bytes);

        assert_eq!(reader.read::<Value>().unwrap(), Some(json!({"a": 1})));
        assert_eq!(reader.read::<Value>().unwrap(), Some(json!("b")));
        assert_eq!(reader.read::<Value>().unwrap(), None);
    }

    #[test]
    fn a_message_over_the_limit_is_refused_before_it_is_read() {
        let error = reader(&[0, 255, 255, 255, 255]).read::<Value>().unwrap_err();

        assert!(matches!(error, ReadError::TooLarge { length: 0xffff_ffff, limit: 64 }));
        assert_eq!(Error::from(error).code, Code::ResourceExhausted);
    }

    #[test]
    fn a_request_that_ends_within_a_message_is_an_error() {
        let whole = message(&json!([1, 2, 3])).unwrap();
        for length in 1..whole.len() {
            let error = reader(&whole[..length]).read::<Value>().unwrap_err();
            assert!(matches!(error, ReadError::CutShort), "{length}: {error}");
        }
    }

    #[test]
    fn a_compressed_message_is_refused() {
        let error = reader(&[1, 0, 0, 0, 0]).read::<Value>().unwrap_err();
        assert_eq!(Error::from(error).code, Code::Unimplemented);
    }

    #[test]
    fn a_call_with_one_message_needs_it() {
        let error = reader(&[]).one::<Value>().unwrap_err();
        assert_eq!(Error::from(error).code, Code::InvalidArgument);
    }

    #[test]
    fn the_last_envelope_has_the_error() {
        let error = Error::new(Code::NotFound, "there is no process 7");
        let bytes = end(Err(&error));

        assert_eq!(bytes[0], END);
        let body: Value = serde_json::from_slice(&bytes[HEAD..]).unwrap();
        let expected = json!({"error": {"code": "not_found", "message": "there is no process 7"}});
        assert_eq!(body, expected);
        assert_eq!(&end(Ok(()))[HEAD..], b"{}");
    }

    #[test]
    fn codes_have_the_names_and_statuses_of_the_protocol() {
        let named = |code: Code| (serde_json::to_value(code).unwrap(), code.status());

        assert_eq!(named(Code::Cancelled), (json!("canceled"), 499));
        assert_eq!(named(Code::DeadlineExceeded), (json!("deadline_exceeded"), 504));
        assert_eq!(named(Code::Unauthenticated), (json!("unauthenticated"), 401));
    }
}
