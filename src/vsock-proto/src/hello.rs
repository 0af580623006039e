//! The first frame of a connection.
//!
//! Its head never changes, so that ends of different versions can tell each other so:
//! 8 bytes [`MAGIC`], 32-bit little-endian version; then postcard.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Decoder, Error, Result, encode};

const MAGIC: [u8; 8] = *b"\0sandbox";
const HEAD: usize = MAGIC.len() + size_of::<u32>();

/// This crate's version of the protocol.
pub const VERSION: u32 = 4;

/// Made afresh at each boot of a guest: tells a reconnect from a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BootId(pub [u8; 16]);

/// What a guest's service proves itself with when it dials again.
///
/// The host makes one for each VM, and hands it over in its answer to the first hello, when no
/// other process of the guest has had a chance to dial.
#[derive(Clone, Copy, Eq, Serialize, Deserialize)]
pub struct LinkSecret(pub [u8; 32]);

/// In constant time: the guest chooses one side.
impl PartialEq for LinkSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(other.0)
            .fold(0, |difference, (ours, theirs)| difference | (ours ^ theirs))
            == 0
    }
}

impl fmt::Debug for LinkSecret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LinkSecret(…)")
    }
}

/// Who the guest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The protocol version that the guest speaks; must be [`VERSION`].
    pub version: u32,
    /// This boot's id.
    pub boot_id: BootId,
    /// Why the service that was connected before this one ended, if one did.
    pub previous_failure: Option<String>,
    /// From the last [`Welcome`](crate::HostBody::Welcome) of this boot, if there was one.
    pub secret: Option<LinkSecret>,
}

/// What follows the head in this version.
#[derive(Serialize, Deserialize)]
struct Body {
    boot_id: BootId,
    previous_failure: Option<String>,
    secret: Option<LinkSecret>,
}

impl Hello {
    /// Appends this hello as one frame to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<()> {
        let mut head = [0; HEAD];
        head[..MAGIC.len()].copy_from_slice(&MAGIC);
        head[MAGIC.len()..].copy_from_slice(&self.version.to_le_bytes());
        let body = Body {
            boot_id: self.boot_id,
            previous_failure: self.previous_failure.clone(),
            secret: self.secret,
        };
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
        let Body { boot_id, previous_failure, secret } = body;
        Ok(Some(Self { version, boot_id, previous_failure, secret }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        let previous_failure = Some("killed by signal 11".into());
        let secret = Some(LinkSecret([3; 32]));
        Hello { version: VERSION, boot_id: BootId([9; 16]), previous_failure, secret }
    }

    fn decode(bytes: &[u8]) -> Result<Option<Hello>> {
        let mut decoder = Decoder::new();
        decoder.push(bytes);
        Hello::decode(&mut decoder)
    }

    #[test]
    fn a_hello_survives_a_round_trip() {
        let mut bytes = Vec::new();
        hello().encode(&mut bytes).unwrap();
        assert_eq!(decode(&bytes).unwrap(), Some(hello()));
    }

    #[test]
    fn secrets_that_differ_in_one_bit_differ_and_none_is_shown() {
        let mut other = [3; 32];
        other[31] ^= 1;
        assert_eq!(LinkSecret([3; 32]), LinkSecret([3; 32]));
        assert_ne!(LinkSecret([3; 32]), LinkSecret(other));
        assert!(!format!("{:?}", hello()).contains("[3, 3"));
    }

    #[test]
    fn a_later_version_is_reported_whatever_follows_it() {
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
