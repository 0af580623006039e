//! The session's history: found, checked, hashed, compressed, uploaded.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Checkpoint;
use super::artifact::upload;
use super::content_hash::hex;
use crate::config::Agent;
use crate::{Error, Result, cli};

const PREPARE: &str = "/api/webhooks/agent/checkpoints/prepare-history";

/// From this size on compressing is worth it.
const WORTH_COMPRESSING: u64 = 64 << 10;

/// How deep histories are below Codex's folder: year, month, day.
const CODEX_DEPTH: usize = 5;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    run_id: &'a str,
    hash: &'a str,
    raw_size: u64,
    encoded_size: u64,
    encoding: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Prepared {
    existing: bool,
    presigned_url: Option<String>,
    encoding: Option<String>,
}

/// A history that was read.
struct History {
    hash: String,
    raw: File,
    raw_size: u64,
    compressed: File,
    compressed_size: u64,
}

/// Keeps the history; returns its hash.
pub(super) fn keep(checkpoint: &Checkpoint, session: &str) -> Result<String> {
    let history = checkpoint.timed("session_history_read", || {
        let path = find(checkpoint, session)?;
        read(&path, checkpoint.folder.scratch("history")?)
    })?;
    let compresses =
        history.raw_size >= WORTH_COMPRESSING && history.compressed_size < history.raw_size;
    let (encoding, encoded_size) = match compresses {
        true => ("zstd", history.compressed_size),
        false => ("identity", history.raw_size),
    };
    let run_id = &checkpoint.config.run_id;
    let request =
        Request { run_id, hash: &history.hash, raw_size: history.raw_size, encoded_size, encoding };
    let prepared: Prepared =
        checkpoint.timed("session_history_prepare", || checkpoint.post(PREPARE, &request))?;
    if !prepared.existing {
        let url = prepared.presigned_url.ok_or(Error::NoUpload { what: "the history" })?;
        // A platform that does not say that it takes zstd takes none.
        let file = match prepared.encoding.as_deref() {
            Some("zstd") if compresses => (history.compressed, history.compressed_size),
            _ => (history.raw, history.raw_size),
        };
        checkpoint.timed("session_history_s3_upload", || {
            upload(&checkpoint.uploader(), &url, "application/octet-stream", file)
        })?;
    }
    Ok(history.hash)
}

fn find(checkpoint: &Checkpoint, session: &str) -> Result<PathBuf> {
    let config = &checkpoint.config;
    let found = match config.agent {
        Agent::Claude { .. } => {
            let folders = cli::history_folders(&config.home, &checkpoint.working_dir);
            let paths = folders.into_iter().map(|folder| folder.join(format!("{session}.jsonl")));
            paths.into_iter().find(|path| path.is_file())
        }
        Agent::Codex { .. } => named(&config.home.join(".codex/sessions"), session, CODEX_DEPTH),
    };
    found.ok_or_else(|| Error::NoHistory { session: session.to_owned() })
}

/// The history below `folder` whose name holds the session's id.
fn named(folder: &Path, session: &str, depth: usize) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        let (name, kind) = (entry.file_name(), entry.file_type().ok()?);
        let name = name.to_string_lossy();
        if kind.is_file() && name.ends_with(".jsonl") && name.contains(session) {
            return Some(entry.path());
        }
        if kind.is_dir() && depth > 0 {
            folders.push(entry.path());
        }
    }
    folders.into_iter().find_map(|folder| named(&folder, session, depth - 1))
}

/// Reads a history once: checks that it is JSON, hashes it, compresses it into `compressed`.
fn read(path: &Path, compressed: File) -> Result<History> {
    let failed = |source| Error::BadHistory { path: path.to_owned(), source };
    let raw = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let encoder = zstd::stream::write::Encoder::new(compressed, 3).map_err(failed)?;
    let mut tee = Tee { file: &raw, hash: Sha256::new(), encoder, size: 0 };
    let mut records = 0_u64;
    let buffer = io::BufReader::with_capacity(64 << 10, &mut tee);
    for record in serde_json::Deserializer::from_reader(buffer).into_iter::<IgnoredAny>() {
        record.map_err(|error| failed(error.into()))?;
        records += 1;
    }
    if records == 0 {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    let Tee { hash, encoder, size: raw_size, .. } = tee;
    let finish = || -> io::Result<(File, u64)> {
        let mut compressed = encoder.finish()?;
        compressed.flush()?;
        let size = compressed.stream_position()?;
        Ok((compressed, size))
    };
    let (compressed, compressed_size) = finish().map_err(failed)?;
    let hash = hex(&hash.finalize());
    Ok(History { hash, raw, raw_size, compressed, compressed_size })
}

/// Reads a file, and hashes and compresses what it reads.
struct Tee<'a> {
    file: &'a File,
    hash: Sha256,
    encoder: zstd::stream::write::Encoder<'static, File>,
    size: u64,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.hash.update(&buffer[..count]);
        self.encoder.write_all(&buffer[..count])?;
        self.size += count as u64;
        Ok(count)
    }
}
