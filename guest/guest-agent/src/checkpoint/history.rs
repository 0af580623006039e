//! Saves the session's history: finds, checks, hashes, compresses and uploads it.
//!
//! A CLI that was killed, or whose disk was full, leaves a truncated last record. The history then ends
//! with the last complete record.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Checkpoint;
use super::artifact::upload;

use crate::config::Agent;
use crate::{Error, Result, cli};

const PREPARE: &str = "/api/webhooks/agent/checkpoints/prepare-history";

/// Smaller histories are not compressed.
const MIN_COMPRESSED: u64 = 64 << 10;

/// How deep to search below Codex's folder, which has folders for year, month and day.
const CODEX_DEPTH: usize = 5;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct PrepareHistoryRequest<'a> {
    run_id: &'a str,
    hash: &'a str,
    raw_size: u64,
    encoded_size: u64,
    encoding: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PrepareHistoryReply {
    existing: bool,
    presigned_url: Option<String>,
    encoding: Option<String>,
}

/// A checked history.
struct History {
    hash: String,
    raw: File,
    raw_size: u64,
    /// The warning if the history is shorter than its file.
    truncation: Option<String>,
}

/// Saves the history. Returns its hash, and the warning if it was truncated.
pub(super) fn save(checkpoint: &Checkpoint, session: &str) -> Result<(String, Option<String>)> {
    let mut history = checkpoint.timed("session_history_read", || {
        let path = find(checkpoint, session)?;
        read(&path)
    })?;
    let compressed = compressed(checkpoint, &mut history);
    let (encoding, encoded_size) = match &compressed {
        Some((_, size)) => ("zstd", *size),
        None => ("identity", history.raw_size),
    };
    let run_id = &checkpoint.config.run_id;
    let request = PrepareHistoryRequest {
        run_id,
        hash: &history.hash,
        raw_size: history.raw_size,
        encoded_size,
        encoding,
    };
    let prepared: PrepareHistoryReply =
        checkpoint.timed("session_history_prepare", || checkpoint.post(PREPARE, &request))?;
    if !prepared.existing {
        let url = prepared.presigned_url.ok_or(Error::NoUpload { what: "the history" })?;
        // Upload zstd only if the platform has confirmed the encoding.
        let file = match (prepared.encoding.as_deref(), compressed) {
            (Some("zstd"), Some(compressed)) => compressed,
            _ => (history.raw, history.raw_size),
        };
        checkpoint.timed("session_history_s3_upload", || {
            upload(&checkpoint.uploader(), &url, "application/octet-stream", file)
        })?;
    }
    Ok((history.hash, history.truncation))
}

/// The compressed history and its size. `None` if it is small, does not shrink, or the disk is full.
fn compressed(checkpoint: &Checkpoint, history: &mut History) -> Option<(File, u64)> {
    if history.raw_size < MIN_COMPRESSED {
        return None;
    }
    let mut compress = || -> io::Result<(File, u64)> {
        let file = checkpoint.folder.scratch("history").map_err(io::Error::other)?;
        let mut encoder = zstd::stream::write::Encoder::new(file, 3)?;
        history.raw.rewind()?;
        io::copy(&mut (&history.raw).take(history.raw_size), &mut encoder)?;
        let mut compressed = encoder.finish()?;
        compressed.flush()?;
        let size = compressed.stream_position()?;
        Ok((compressed, size))
    };
    match compress() {
        Ok((file, size)) => (size < history.raw_size).then_some((file, size)),
        Err(error) => {
            log::warn!("cannot compress the history; error={error}");
            None
        }
    }
}

fn find(checkpoint: &Checkpoint, session: &str) -> Result<PathBuf> {
    let config = &checkpoint.config;
    let found = match config.agent {
        Agent::Claude { .. } => {
            let folders = cli::history_folders(&config.home, &checkpoint.working_dir);
            let paths = folders.into_iter().map(|folder| folder.join(format!("{session}.jsonl")));
            paths.into_iter().find(|path| path.is_file())
        }
        Agent::Codex { .. } => {
            find_by_name(&config.home.join(".codex/sessions"), session, CODEX_DEPTH)
        }
    };
    found.ok_or_else(|| Error::NoHistory { session: session.to_owned() })
}

/// The `.jsonl` file below `folder` whose name contains the session's id.
fn find_by_name(folder: &Path, session: &str, depth: usize) -> Option<PathBuf> {
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
    folders.into_iter().find_map(|folder| find_by_name(&folder, session, depth - 1))
}

/// Opens a history and hashes its complete records.
fn read(path: &Path) -> Result<History> {
    let failed = |source| Error::BadHistory { path: path.to_owned(), source };
    let mut raw = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let (raw_size, truncation) = complete_records(&raw).map_err(failed)?;
    raw.rewind().map_err(failed)?;
    let mut hash = Sha256::new();
    let hashed = io::copy(&mut (&raw).take(raw_size), &mut hash).map_err(failed)?;
    if hashed < raw_size {
        return Err(failed(io::Error::other("it was truncated while it was read")));
    }
    let truncation = truncation.map(|error| {
        format!("the session was saved without its end, after {raw_size} bytes: {error}")
    });
    Ok(History { hash: base::hex::encode(&hash.finalize()), raw, raw_size, truncation })
}

/// The length up to the end of the last complete record, and the error after it.
fn complete_records(file: &File) -> io::Result<(u64, Option<String>)> {
    let reader = BufReader::with_capacity(64 << 10, file);
    let mut records = serde_json::Deserializer::from_reader(reader).into_iter::<IgnoredAny>();
    let mut end = 0;
    loop {
        match records.next() {
            Some(Ok(_)) => end = records.byte_offset() as u64,
            Some(Err(error)) if end > 0 && !error.is_io() => {
                let mut next = [0];
                let has_line_end = file.read_at(&mut next, end)? == 1 && next == *b"\n";
                return Ok((end + u64::from(has_line_end), Some(error.to_string())));
            }
            Some(Err(error)) => return Err(error.into()),
            None if end == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            // The whole file, with the last line feed.
            None => return Ok((file.metadata()?.len(), None)),
        }
    }
}
