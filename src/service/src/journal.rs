//! The journal: one record per claim, until the platform has accepted the outcome.
//!
//! ```text
//!            source                    job's thread               thread `report`
//!  claiming ───────▶ claimed: token ────────────────▶ ended: outcome ────────────▶ (removed)
//! ```
//!
//! A record is a file `<state>/outcomes/<run>.json`, readable by its owner only because it contains the job's
//! token.
//!
//! INVARIANT: an outcome is on disk before it is sent, and stays there until the platform accepts or finally
//! refuses it. A record is replaced atomically.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use base::durable;
use serde::{Deserialize, Serialize};

use super::source::SourceKind;
use crate::error::{Error, Result, file};
use contract::{Completion, RunId};

/// The host's disk counts as full below this many free bytes.
const MIN_FREE: u64 = 1 << 20;

/// The folder of the records.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    folder: PathBuf,
}

/// The record of a claim.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ClaimRecord {
    pub(crate) run: RunId,
    pub(crate) attempt: Option<u32>,
    pub(crate) source: SourceKind,
    #[serde(flatten)]
    pub(crate) state: ClaimState,
}

impl ClaimRecord {
    /// The time of the outcome in milliseconds since 1970, if there is one.
    pub(crate) fn ended_ms(&self) -> Option<u64> {
        match self.state {
            ClaimState::Ended { at_ms, .. } => Some(at_ms),
            _ => None,
        }
    }
}

/// The progress of a claim.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum ClaimState {
    /// The claim was requested. The request's ID makes retries idempotent; the profile is the offer's.
    Claiming {
        request: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        profile: Option<String>,
    },
    /// The platform granted the claim.
    Claimed { token: String },
    /// The job has ended, at `at_ms` milliseconds since 1970.
    Ended { token: String, at_ms: u64, completion: Completion },
}

impl Journal {
    /// Opens or creates the journal of a state folder.
    pub(crate) fn open(state_dir: &Path) -> Result<Self> {
        let folder = state_dir.join("outcomes");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(file("create", &folder))?;
        Ok(Self { folder })
    }

    /// Replaces the run's record atomically. It is on disk when this returns.
    pub(crate) fn write(&self, record: &ClaimRecord) -> Result<()> {
        let path = self.path(record.run);
        let json = serde_json::to_vec(record).map_err(|source| Error::Json { source })?;
        durable::write_private(&path, &json).map_err(durable_error)
    }

    /// Removes a record. If that fails, the outcome is sent again, which is harmless.
    pub(crate) fn remove(&self, run: RunId) {
        let path = self.path(run);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                log::error!(
                    "cannot remove a record of the journal; path={} error={error}",
                    path.display()
                );
            }
            _ => {}
        }
    }

    /// Reads all records. A damaged one is renamed to `<run>.damaged`.
    pub(crate) fn read(&self) -> Result<Vec<ClaimRecord>> {
        let mut records = Vec::new();
        let entries = fs::read_dir(&self.folder).map_err(file("read", &self.folder))?;
        for entry in entries {
            let path = entry.map_err(file("read", &self.folder))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                // The rest of an interrupted write, also by an earlier version.
                Some("new" | "draft") => {
                    fs::remove_file(&path).map_err(file("remove", &path))?;
                    continue;
                }
                _ => continue,
            }
            let json = fs::read(&path).map_err(file("read", &path))?;
            match serde_json::from_slice(&json) {
                Ok(record) => records.push(record),
                Err(source) => {
                    let error = Error::Record { path: path.clone(), source };
                    log::error!(
                        "a record of the journal is damaged, and its job is not reported; error={}",
                        error.chain()
                    );
                    let damaged = path.with_extension("damaged");
                    fs::rename(&path, &damaged).map_err(file("rename", &path))?;
                }
            }
        }
        Ok(records)
    }

    /// The folder, if the host's disk that contains it is full. The VMs' disks are on the same one.
    pub(crate) fn full_disk(&self) -> Option<PathBuf> {
        let disk = nix::sys::statvfs::statvfs(&self.folder).ok()?;
        let room = disk.blocks_available() * disk.fragment_size();
        let has_no_inode = disk.files() > 0 && disk.files_available() == 0;
        (room < MIN_FREE || has_no_inode).then(|| self.folder.clone())
    }

    fn path(&self, run: RunId) -> PathBuf {
        self.folder.join(format!("{run}.json"))
    }
}

/// The error of a file operation of [`base::durable`].
pub(super) fn durable_error(error: durable::Error) -> Error {
    let durable::Error { operation, path, source } = error;
    Error::File { operation, path, source }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    pub(crate) fn run() -> RunId {
        "01234567-89ab-4def-8123-456789abcdef".parse::<RunId>().unwrap()
    }

    fn record(state: ClaimState) -> ClaimRecord {
        ClaimRecord { run: run(), attempt: Some(2), source: SourceKind::Local, state }
    }

    #[test]
    fn a_record_is_replaced_and_readable_by_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.write(&record(ClaimState::Claimed { token: "t".into() })).unwrap();
        let completion = Completion { exit_code: 3, ..Completion::default() };
        journal
            .write(&record(ClaimState::Ended { token: "t".into(), at_ms: 5, completion }))
            .unwrap();

        let records = Journal::open(folder.path()).unwrap().read().unwrap();

        assert_eq!(records.len(), 1);
        let ClaimState::Ended { completion, .. } = &records[0].state else { panic!("not ended") };
        assert_eq!((completion.exit_code, records[0].attempt), (3, Some(2)));
        let mode = fs::metadata(journal.path(run())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_crash_while_writing_leaves_the_previous_record() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal.write(&record(ClaimState::Claimed { token: "t".into() })).unwrap();
        let temporary = journal.path(run()).with_extension("new");
        fs::write(&temporary, "{\"run\":").unwrap();

        let records = journal.read().unwrap();

        assert!(matches!(records[0].state, ClaimState::Claimed { .. }));
        assert!(!temporary.exists());
    }

    #[test]
    fn a_damaged_record_is_renamed_and_the_others_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal
            .write(&record(ClaimState::Claiming { request: "r".into(), profile: None }))
            .unwrap();
        fs::write(folder.path().join("outcomes/x.json"), "nonsense").unwrap();

        assert_eq!(journal.read().unwrap().len(), 1);
        assert!(folder.path().join("outcomes/x.damaged").exists());
    }

    #[test]
    fn removing_a_record_twice_succeeds() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::open(folder.path()).unwrap();
        journal
            .write(&record(ClaimState::Claiming { request: "r".into(), profile: None }))
            .unwrap();
        journal.remove(run());
        journal.remove(run());
        assert!(journal.read().unwrap().is_empty());
    }
}
