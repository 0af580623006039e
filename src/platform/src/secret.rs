//! The secrets of jobs: each job's in a file of its own, from its submission until its end.
//!
//! They are files and not encrypted rows of the database. A database keeps deleted data for a while
//! (free pages, its log, every copy of it), and the key would be in the same folder. A removed file
//! is also absent from later copies of the folder.
//!
//! INVARIANT: the file is on the disk before the job is in the database, and is removed after the
//! job has ended there. So a file that a crash leaves belongs to no open job, and the next start
//! removes it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use base::sync::{Mutex, MutexGuard};

use crate::error::file;
use crate::mask::Mask;
use crate::{Error, Result, RunId, folder};

/// Values by name.
pub(crate) type Values = BTreeMap<String, String>;

/// All secrets of a platform.
pub(crate) struct Secrets {
    folder: PathBuf,
    /// They outlive their files, as telemetry may arrive after a job's end.
    masks: Mutex<HashMap<RunId, Arc<Mask>>>,
}

impl Secrets {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, masks: Mutex::default() }
    }

    /// Stores a job's secrets; they are on the disk when this returns.
    pub(crate) fn keep(&self, run: &RunId, values: &Values) -> Result<()> {
        let path = self.path(run);
        let json = serde_json::to_vec(values)
            .map_err(|source| Error::BadRecord { path: path.clone(), source })?;
        folder::write(&path, &json)
    }

    /// A job's secrets; `None` if it has none, or they are removed. The job's row says which.
    pub(crate) fn read(&self, run: &RunId) -> Result<Option<Values>> {
        let path = self.path(run);
        let json = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(file("read", &path))?,
        };
        let values = serde_json::from_slice(&json);
        values.map(Some).map_err(|source| Error::BadRecord { path, source })
    }

    /// The mask of a job's secrets; `None` if it has none, or they are removed. It fails if they
    /// cannot be masked: then no data of the job may be stored.
    pub(crate) fn mask(&self, run: &RunId) -> Result<Option<Arc<Mask>>> {
        if let Some(mask) = self.lock().get(run) {
            return Ok(Some(Arc::clone(mask)));
        }
        let Some(values) = self.read(run)? else {
            return Ok(None);
        };
        let mask = Arc::new(Mask::new(values.values())?);
        self.lock().insert(*run, Arc::clone(&mask));
        Ok(Some(mask))
    }

    /// Removes a job's secrets. Their mask stays until [`Secrets::forget_masks`].
    pub(crate) fn remove(&self, run: &RunId) -> Result<()> {
        folder::remove(&self.path(run))
    }

    /// Drops the masks of all other jobs.
    pub(crate) fn forget_masks(&self, but: &HashSet<RunId>) {
        self.lock().retain(|run, _| but.contains(run));
    }

    /// Removes the files of all other jobs.
    pub(crate) fn remove_all_but(&self, jobs: &[RunId]) -> Result<()> {
        for path in folder::entries(&self.folder)? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.parse().is_ok_and(|run: RunId| jobs.contains(&run)) {
                folder::remove(&path)?;
            }
        }
        Ok(())
    }

    fn path(&self, run: &RunId) -> PathBuf {
        self.folder.join(run.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Mask>>> {
        self.masks.lock()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_in_a_file_of_mode_0600_until_they_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path().to_owned());
        let run = RunId::random();
        let values = Values::from([("KEY".into(), "hunter22".into())]);
        secrets.keep(&run, &values).unwrap();
        let mode = fs::metadata(secrets.path(&run)).unwrap().permissions().mode();

        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(secrets.read(&run).unwrap(), Some(values));
        secrets.remove(&run).unwrap();
        assert_eq!(secrets.read(&run).unwrap(), None);
    }

    #[test]
    fn a_mask_outlives_its_secrets_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path().to_owned());
        let run = RunId::random();
        secrets.keep(&run, &Values::from([("KEY".into(), "hunter22".into())])).unwrap();
        secrets.mask(&run).unwrap();
        secrets.remove(&run).unwrap();

        assert!(secrets.mask(&run).unwrap().is_some());
        secrets.forget_masks(&HashSet::new());
        assert!(secrets.mask(&run).unwrap().is_none());
    }

    #[test]
    fn secrets_of_no_open_job_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::new(dir.path().to_owned());
        let (open, ended) = (RunId::random(), RunId::random());
        let values = Values::from([("KEY".into(), "hunter22".into())]);
        secrets.keep(&open, &values).unwrap();
        secrets.keep(&ended, &values).unwrap();
        fs::write(dir.path().join("half.new"), "x").unwrap();

        secrets.remove_all_but(&[open]).unwrap();

        assert_eq!(folder::entries(dir.path()).unwrap(), [secrets.path(&open)]);
    }
}
