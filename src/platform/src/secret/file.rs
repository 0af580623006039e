//! Secrets in a file for each job.
//!
//! INVARIANT: the file is on the disk before the job is in the database, and is removed after the
//! job has ended there. So a file that a crash leaves belongs to no open job, and the next start
//! removes it.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::{Found, Values};
use crate::error::file;
use crate::{Error, Result, RunId, folder};

/// A folder of secrets.
pub(super) struct Files {
    folder: PathBuf,
}

impl Files {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Stores a job's secrets; they are on the disk when this returns.
    pub(super) fn keep(&self, run: &RunId, values: &Values) -> Result<()> {
        let path = self.path(run);
        let json = serde_json::to_vec(values)
            .map_err(|source| Error::BadRecord { path: path.clone(), source })?;
        folder::write(&path, &json)
    }

    pub(super) fn read(&self, run: &RunId) -> Result<Found> {
        let path = self.path(run);
        let json = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::None),
            other => other.map_err(file("read", &path))?,
        };
        let values = serde_json::from_slice(&json);
        values.map(Found::Values).map_err(|source| Error::BadRecord { path, source })
    }

    pub(super) fn remove(&self, run: &RunId) -> Result<()> {
        folder::remove(&self.path(run))
    }

    /// Removes the files of all other jobs.
    pub(super) fn remove_all_but(&self, jobs: &[RunId]) -> Result<()> {
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
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn secrets_are_in_a_file_of_mode_0600_until_they_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().to_owned());
        let run = RunId::random();
        let values = Values::from([("KEY".into(), "hunter22".into())]);
        files.keep(&run, &values).unwrap();
        let mode = fs::metadata(files.path(&run)).unwrap().permissions().mode();

        assert_eq!(mode & 0o777, 0o600);
        assert!(matches!(files.read(&run), Ok(Found::Values(read)) if read == values));
        files.remove(&run).unwrap();
        assert!(matches!(files.read(&run), Ok(Found::None)));
    }

    #[test]
    fn secrets_of_no_open_job_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().to_owned());
        let (open, ended) = (RunId::random(), RunId::random());
        let values = Values::from([("KEY".into(), "hunter22".into())]);
        files.keep(&open, &values).unwrap();
        files.keep(&ended, &values).unwrap();
        fs::write(dir.path().join("half.new"), "x").unwrap();

        files.remove_all_but(&[open]).unwrap();

        assert_eq!(folder::entries(dir.path()).unwrap(), [files.path(&open)]);
    }
}
