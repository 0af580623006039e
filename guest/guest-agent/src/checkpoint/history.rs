//! The session's history: found, checked, hashed, compressed, uploaded.
//!
//! A CLI that was killed, or whose disk was full, leaves a last record that is cut short. The whole
//! records before it are the history.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
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
    /// At its beginning.
    raw: File,
    raw_size: u64,
    /// Why it is shorter than its file, if it is.
    flaw: Option<String>,
}

/// Keeps the history; returns its hash, and what the job's user should know of it.
pub(super) fn keep(checkpoint: &Checkpoint, session: &str) -> Result<(String, Option<String>)> {
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
    let request =
        Request { run_id, hash: &history.hash, raw_size: history.raw_size, encoded_size, encoding };
    let prepared: Prepared =
        checkpoint.timed("session_history_prepare", || checkpoint.post(PREPARE, &request))?;
    if !prepared.existing {
        let url = prepared.presigned_url.ok_or(Error::NoUpload { what: "the history" })?;
        // A platform that does not say that it takes zstd takes none.
        let file = match (prepared.encoding.as_deref(), compressed) {
            (Some("zstd"), Some(compressed)) => compressed,
            _ => (history.raw, history.raw_size),
        };
        checkpoint.timed("session_history_s3_upload", || {
            upload(&checkpoint.uploader(), &url, "application/octet-stream", file)
        })?;
    }
    Ok((history.hash, history.flaw))
}

/// The history compressed, if that is worth it and there is room.
fn compressed(checkpoint: &Checkpoint, history: &mut History) -> Option<(File, u64)> {
    if history.raw_size < WORTH_COMPRESSING {
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
            log::warn!("the history is not compressed; error={error}");
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

/// Reads a history: its whole records, and their hash.
fn read(path: &Path) -> Result<History> {
    let failed = |source| Error::BadHistory { path: path.to_owned(), source };
    let mut raw = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let (raw_size, flaw) = whole_records(&raw).map_err(failed)?;
    raw.rewind().map_err(failed)?;
    let mut hash = Sha256::new();
    let hashed = io::copy(&mut (&raw).take(raw_size), &mut hash).map_err(failed)?;
    if hashed < raw_size {
        return Err(failed(io::Error::other("it became shorter while it was read")));
    }
    let flaw = flaw.map(|error| {
        format!("the session is kept without its end, after {raw_size} bytes: {error}")
    });
    Ok(History { hash: hex(&hash.finalize()), raw, raw_size, flaw })
}

/// How long a history is up to the end of its last whole record, and what is wrong after it.
fn whole_records(file: &File) -> io::Result<(u64, Option<String>)> {
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
            // With the end of its last line.
            None => return Ok((file.metadata()?.len(), None)),
        }
    }
}
