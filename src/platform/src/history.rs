//! Histories of agents' sessions, by the SHA-256 of their uncompressed content.

mod object;

use std::io::Write;
use std::sync::Arc;

use base::hex;
use http_server::{Body, Method};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::attempt::Caller;
use crate::backend::Backend;
use crate::db::{Outcome, ToValue, Tx};
use crate::key::Tag;
use crate::storage::length;
use crate::store::{Store, Temporary};
use crate::{Refusal, Result, RunId};

/// The largest history, encoded and decoded.
const LARGEST_ENCODED: u64 = 128 << 20;
const LARGEST_RAW: u64 = 1 << 30;

/// The maximum zstd window: 2^27 bytes of memory.
const WINDOW_LOG: u32 = 27;

/// A history that a guest wants to upload.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Announcement {
    pub(crate) run_id: RunId,
    hash: String,
    raw_size: u64,
    encoded_size: u64,
    encoding: String,
}

/// The reply to an announcement.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Permission {
    existing: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    presigned_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
}

/// The encoding of a stored history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Encoding {
    Identity,
    Zstd,
}

impl Encoding {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Zstd => "zstd",
        }
    }
}

/// The parameters of a history's URL.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) owner: String,
    pub(crate) hash: String,
    pub(crate) raw_size: u64,
    pub(crate) encoded_size: u64,
    pub(crate) encoding: Encoding,
}

impl Backend {
    /// Returns a URL for the upload, unless the history is stored already.
    pub(crate) fn prepare_history(
        &self,
        token: &Tag,
        history: Announcement,
        base: &str,
    ) -> Result<Permission> {
        if hex::decode::<32>(&history.hash).is_none() {
            return Err(Refusal::bad("`hash` is not 64 lower-case hex digits").into());
        }
        let (token, run, hash) = (*token, history.run_id, history.hash.clone());
        let (attempt, existing) = self.db.read("look for a history", move |tx| {
            let caller = Caller::live(tx, &token, &run)?;
            let query = "SELECT 1 FROM histories WHERE hash = ?1";
            Ok((caller.attempt, tx.exists(query, &[&hash])?))
        })?;
        if existing {
            return Ok(Permission { existing, presigned_url: None, encoding: None });
        }
        // Other encodings are not acknowledged: the guest sends the history uncompressed.
        let (encoding, size) = match history.encoding.as_str() {
            "zstd" => (Encoding::Zstd, history.encoded_size),
            _ => (Encoding::Identity, history.raw_size),
        };
        if size > LARGEST_ENCODED || history.raw_size > LARGEST_RAW {
            return Err(Refusal::TooLarge { limit: LARGEST_ENCODED, unit: "bytes" }.into());
        }
        let owner = format!("{run}/{attempt}");
        let url = match &self.store {
            Store::Files(_) => {
                let (hash, raw) = (&history.hash, history.raw_size);
                let parameters = format!("raw={raw}&size={size}&encoding={}", encoding.name());
                let path = format!("/uploads/history/{hash}?owner={owner}&{parameters}");
                self.url(base, Method::Put, &path)
            }
            Store::Bucket(objects) => {
                // The store accepts no other length.
                self.charge_upload(&owner, size)?;
                let to = Temporary::History { owner, hash: history.hash };
                objects.upload_url(&to, Some(size))
            }
        };
        Ok(Permission { existing, presigned_url: Some(url), encoding: Some(encoding) })
    }

    /// Receives a history, and stores it if it matches its hash.
    pub(crate) fn put_history(&self, expected: Expected, body: &mut Body<'_>) -> Result<()> {
        let (found, size) = (length(body)?, expected.encoded_size);
        if found != size {
            return Err(Refusal::WrongSize { found, expected: size, unit: "bytes" }.into());
        }
        self.charge_upload(&expected.owner, size)?;
        let mut raw = Raw::new(expected.raw_size);
        let blobs = self.store.files()?;
        let incoming = match expected.encoding {
            Encoding::Identity => blobs.receive(body, size, &mut |piece| raw.take(piece))?,
            Encoding::Zstd => {
                let mut decoder = decoder(&mut raw)?;
                let mut take = |piece: &[u8]| decode(|| decoder.write_all(piece));
                let incoming = blobs.receive(body, size, &mut take)?;
                decode(|| decoder.flush())?;
                incoming
            }
        };
        raw.check(&expected)?;
        let blob = incoming.keep()?;
        let blobs = Arc::clone(blobs);
        self.db.write("record a history", move |tx| {
            tx.lock_names(&[&blob.digest])?;
            if !blobs.has(&blob.digest) {
                return Err(Refusal::Busy.into());
            }
            record(tx, &expected, &blob.digest, blob.size)
        })
    }
}

/// Adds a history, unless it is there.
fn record(tx: &Tx<'_>, history: &Expected, name: &str, encoded_size: u64) -> Outcome<()> {
    let add = "INSERT INTO histories (hash, encoding, raw_size, blob, encoded_size, created)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";
    let (encoding, now) = (history.encoding.name(), tx.now());
    let row: [&dyn ToValue; 6] =
        [&history.hash, &encoding, &history.raw_size, &name, &encoded_size, &now];
    tx.execute(add, &row).map(drop)
}

/// A writer that counts and hashes the decompressed history, and fails beyond the announced size.
struct Raw {
    hasher: Sha256,
    size: u64,
    limit: u64,
}

impl Raw {
    fn new(limit: u64) -> Self {
        Self { hasher: Sha256::new(), size: 0, limit }
    }

    fn take(&mut self, piece: &[u8]) -> Result<()> {
        self.size += piece.len() as u64;
        if self.size > self.limit {
            let unit = "bytes unpacked";
            return Err(Refusal::WrongSize { found: self.size, expected: self.limit, unit }.into());
        }
        self.hasher.update(piece);
        Ok(())
    }

    fn check(self, expected: &Expected) -> Result<(), Refusal> {
        if self.size != expected.raw_size {
            let unit = "bytes unpacked";
            return Err(Refusal::WrongSize { found: self.size, expected: self.limit, unit });
        }
        self.check_hash(&expected.hash)
    }

    fn check_hash(self, hash: &str) -> Result<(), Refusal> {
        let found = hex::encode(&self.hasher.finalize());
        if found == hash { Ok(()) } else { Err(Refusal::WrongHash) }
    }
}

impl Write for &mut Raw {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        self.take(piece).map_err(std::io::Error::other)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn decoder(raw: &mut Raw) -> Result<zstd::stream::write::Decoder<'_, &mut Raw>> {
    let made = zstd::stream::write::Decoder::new(raw).and_then(|mut decoder| {
        decoder.window_log_max(WINDOW_LOG)?;
        Ok(decoder)
    });
    Ok(made.map_err(|_| Refusal::Busy)?)
}

/// Decompression fails only on malformed input.
fn decode(work: impl FnOnce() -> std::io::Result<()>) -> Result<()> {
    work().map_err(|_| {
        Refusal::bad("the history cannot be decompressed with the announced encoding").into()
    })
}
