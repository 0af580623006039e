//! Histories that a guest uploaded to a bucket. The store checked their length only, so the platform reads
//! them once, in pieces, before a checkpoint names them: a store's checksums are of the encoded bytes.

use std::io::{self, Read, Write};

use super::{Encoding, Expected, LARGEST_ENCODED, LARGEST_RAW, Raw, decode, decoder, record};
use crate::attempt::Caller;
use crate::backend::Backend;
use crate::blob::CHUNK;
use crate::key::Tag;
use crate::store::{Objects, Store, Temporary, stage, unstage};
use crate::{Error, Refusal, Result, RunId};

/// The first bytes of a zstd frame. No line of JSON begins with them.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

const KNOWN: &str = "SELECT 1 FROM histories WHERE hash = ?1";

impl Backend {
    /// Stores the history that an attempt uploaded to the bucket, if it is needed and is what its hash says.
    pub(crate) fn adopt_history(&self, token: &Tag, run: RunId, hash: &str) -> Result<()> {
        let Store::Bucket(objects) = &self.store else { return Ok(()) };
        if base::hex::decode::<32>(hash).is_none() {
            return Err(Refusal::bad("a history's hash must have 64 lower-case hex digits").into());
        }
        let (token, wanted) = (*token, hash.to_owned());
        let (attempt, is_known) = self.db.read("look for a history", move |tx| {
            let caller = Caller::live(tx, &token, &run)?;
            Ok((caller.attempt, tx.exists(KNOWN, &[&wanted])?))
        })?;
        if is_known {
            return Ok(());
        }
        let from = Temporary::History { owner: format!("{run}/{attempt}"), hash: hash.to_owned() };
        let missing = Refusal::Missing { what: "session history" };
        let stat = objects.uploaded(&from)?.ok_or(missing)?;
        if stat.size > LARGEST_ENCODED {
            return Err(Refusal::TooLarge { limit: LARGEST_ENCODED, unit: "bytes" }.into());
        }
        let name = Objects::name(None);
        let staged = name.clone();
        self.db.write("reserve a name", move |tx| stage(tx, &staged))?;
        objects.adopt(&from, &stat, &name)?;
        let (encoding, raw_size) = checked(&mut objects.reader(&name)?, hash, LARGEST_RAW)?;
        let history = Expected {
            owner: String::new(),
            hash: hash.to_owned(),
            raw_size,
            encoded_size: stat.size,
            encoding,
        };
        self.db.write("record a history", move |tx| {
            if tx.exists(KNOWN, &[&history.hash])? {
                return Ok(());
            }
            unstage(tx, &name)?;
            record(tx, &history, &name, history.encoded_size)
        })?;
        objects.discard(&from);
        Ok(())
    }
}

/// The encoding and the raw size of a history whose raw content has this hash, and `limit` bytes at most.
fn checked(reader: &mut dyn Read, hash: &str, limit: u64) -> Result<(Encoding, u64)> {
    let mut head = Vec::new();
    let begun = reader.take(ZSTD.len() as u64).read_to_end(&mut head);
    begun.map_err(|source| Error::StoreRead { source })?;
    let encoding = if head == ZSTD { Encoding::Zstd } else { Encoding::Identity };
    let mut reader = head.chain(reader);
    let mut raw = Raw::new(limit);
    match encoding {
        Encoding::Identity => pieces(&mut reader, &mut |piece| raw.take(piece))?,
        Encoding::Zstd => {
            let mut decoder = decoder(&mut raw)?;
            pieces(&mut reader, &mut |piece| decode(|| decoder.write_all(piece)))?;
            decode(|| decoder.flush())?;
        }
    }
    let size = raw.size;
    raw.check_hash(hash)?;
    Ok((encoding, size))
}

fn pieces(reader: &mut dyn Read, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(Error::StoreRead { source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn hash(text: &[u8]) -> String {
        base::hex::encode(&Sha256::digest(text))
    }

    #[test]
    fn a_history_is_recognized_by_its_first_bytes_and_checked_by_its_raw_hash() {
        let text = "{\"a\":1}\n".repeat(100_000);
        let packed = zstd::encode_all(text.as_bytes(), 3).unwrap();
        let (hash, size) = (hash(text.as_bytes()), text.len() as u64);

        let plain = checked(&mut text.as_bytes(), &hash, size).unwrap();
        let zstd = checked(&mut &packed[..], &hash, size).unwrap();
        let other = checked(&mut &b"{}"[..], &hash, size);
        let cut = checked(&mut &packed[..packed.len() - 1], &hash, size);

        assert_eq!((plain, zstd), ((Encoding::Identity, size), (Encoding::Zstd, size)));
        assert!(matches!(other, Err(Error::Refused(Refusal::WrongHash))));
        assert!(matches!(cut, Err(Error::Refused(_))));
    }

    #[test]
    fn a_history_that_unpacks_to_more_than_the_limit_is_rejected_while_it_is_unpacked() {
        let bomb = zstd::encode_all(&vec![0; 1 << 20][..], 1).unwrap();

        let refused = checked(&mut &bomb[..], &hash(b""), 1 << 19);

        assert!(matches!(refused, Err(Error::Refused(Refusal::BadRequest { .. }))));
    }
}
