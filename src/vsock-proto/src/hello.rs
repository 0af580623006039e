//! The first frame of a connection.
//!
//! Its head never changes, so that ends of different versions can tell each other so:
//! 8 bytes [`MAGIC`], 32-bit little-endian version; then postcard.

use serde::{Deserialize, Serialize};

use crate::{Decoder, Error, Result, encode};

const MAGIC: [u8; 8] = *b"\0sandbox";
const HEAD: usize = MAGIC.len() + size_of::<u32>();

/// This crate's version of the protocol.
pub const VERSION: u32 = 4;

/// Made afresh at each boot of a guest: tells a reconnect from a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

/// Who the guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The protocol version that the guest speaks; must be [`VERSION`].
    pub version: u32,
    /// This boot's id.
    pub boot_id: BootId,
    /// Why the service that was connected before this one ended, if one did.
    pub previous_failure: Option<String>,
}

/// What follows the head in this version.
#[derive(Serialize, Deserialize)]
struct Body {
    boot_id: BootId,
    previous_failure: Option<String>,
}

impl Hello {
    /// Appends this hello as one frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let mut head = [0; HEAD];
        head[..MAGIC.len()].copy_from_slice(&MAGIC);
        head[MAGIC.len()..].copy_from_slice(&self.version.to_le_bytes());
        let body = Body { boot_id: self.boot_id, previous_failure: self.previous_failure.clone() };
        encode(&(head, body), out)
    }

    /// The hello, once all of its frame has come.
    pub fn decode(decoder: &mut Decoder) -> Result<Option<Self>> {
        let Some(frame) = decoder.next_frame()? else {
            return Ok(None);
        };
        let (magic, rest) = frame.split_first_chunk().ok_or(Error::NotHello)?;
        if *magic != MAGIC {
            return Err(Error::NotHello);
        }
        let (version, rest) = rest.split_first_chunk().ok_or(Error::NotHello)?;
        let version = u32::from_le_bytes(*version);
        if version != VERSION {
            return Err(Error::Version { theirs: version, ours: VERSION });
        }
        let body: Body = postcard::from_bytes(rest)
            .map_err(|source| Error::Decode { length: frame.len(), source })?;
        let Body { boot_id, previous_failure } = body;
        Ok(Some(Self { version, boot_id, previous_failure }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        let previous_failure = Some("killed by signal 11".into());
        Hello { version: VERSION, boot_id: BootId([9; 16]), previous_failure }
    }

    fn decode(bytes: &[u8]) -> Result<Option<Hello>> {
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        Hello::decode(&mut decoder)
    }

    #[test]
    fn a_hello_comes_back_as_it_was() {
        let mut bytes = Vec::new();
        hello().encode(&mut bytes).unwrap();
        assert_eq!(decode(&bytes).unwrap(), Some(hello()));
    }

    #[test]
    fn a_future_version_is_named_whatever_follows_it() {
        let mut bytes = vec![14, 0, 0, 0];
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[7, 0, 0, 0, 0xff, 0xff]);
        assert!(matches!(decode(&bytes), Err(Error::Version { theirs: 7, ours: VERSION })));
    }

    #[test]
    fn another_protocol_is_not_a_hello() {
        let mut bytes = vec![16, 0, 0, 0];
        bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
        assert!(matches!(decode(&bytes), Err(Error::NotHello)));
    }
}
