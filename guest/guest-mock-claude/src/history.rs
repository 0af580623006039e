//! The session's history: `$HOME/.claude/projects/<cwd with / as ->/<session>.jsonl`.
//!
//! INVARIANT: each record is one line, written in one call. Its `parentUuid` is the `uuid` of the
//! record before it, also after a resume.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::event::{HistoryRecord, Message};

/// An open history file.
pub(crate) struct History {
    file: File,
    path: PathBuf,
    /// The uuid of the last record.
    last: Option<String>,
}

impl History {
    /// Creates the history of a new session.
    pub(crate) fn create(session_id: &str, cwd: &str) -> Result<History> {
        let path = path_of(session_id, cwd)?;
        let file =
            create(&path).map_err(|source| Error::OpenHistory { path: path.clone(), source })?;
        Ok(History { file, path, last: None })
    }

    /// Opens the history of an earlier session, to append to it.
    pub(crate) fn resume(session_id: &str, cwd: &str) -> Result<History> {
        let path = path_of(session_id, cwd)?;
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoConversation { id: session_id.to_owned(), path });
            }
            Err(source) => return Err(Error::ReadHistory { path, source }),
        };
        let file = append(&path, &text)
            .map_err(|source| Error::OpenHistory { path: path.clone(), source })?;
        Ok(History { file, path, last: last_uuid(&text) })
    }

    /// Appends a message with the uuid of its event.
    pub(crate) fn record(
        &mut self,
        session_id: &str,
        cwd: &str,
        uuid: &str,
        message: &Message,
    ) -> Result<()> {
        let record = HistoryRecord {
            parent_uuid: self.last.as_deref(),
            is_sidechain: false,
            user_type: "external",
            cwd,
            session_id,
            version: env!("CARGO_PKG_VERSION"),
            r#type: message.role(),
            message,
            uuid,
            timestamp: base::date::iso_now(),
        };
        let mut line = serde_json::to_vec(&record).map_err(|source| Error::Encode { source })?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| self.write_error(source))?;
        self.last = Some(uuid.to_owned());
        Ok(())
    }

    /// Waits until all records are on disk.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|source| self.write_error(source))
    }

    fn write_error(&self, source: io::Error) -> Error {
        Error::WriteHistory { path: self.path.clone(), source }
    }
}

fn path_of(session_id: &str, cwd: &str) -> Result<PathBuf> {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).ok_or(Error::NoHome)?;
    let projects = Path::new(&home).join(".claude/projects");
    Ok(projects.join(cwd.replace('/', "-")).join(format!("{session_id}.jsonl")))
}

fn create(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)
}

/// Opens a history for appending. Ends its last line first if that was truncated.
fn append(path: &Path, text: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    if text.last().is_some_and(|last| *last != b'\n') {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// The uuid of the last record that has one: the real CLI also writes records without a uuid.
fn last_uuid(text: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct RecordId {
        uuid: String,
    }
    let mut lines = text.rsplit(|byte| *byte == b'\n');
    lines.find_map(|line| serde_json::from_slice::<RecordId>(line).ok()).map(|record| record.uuid)
}
