//! The secrets of jobs, from their submission until their end.
//!
//! The embedded platform has them in files (`secret/file.rs`), platforms of a shared database in sealed
//! records there (`secret/record.rs`). See the decisions `job-secrets-are-files.md` and
//! `shared-secrets-are-sealed.md`.

mod file;
mod record;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use base::sync::{Mutex, MutexGuard};

use self::file::Files;
use self::record::Records;
pub(crate) use self::record::{forget, store};
use crate::db::Db;
use crate::key::{Keys, Sealed};
use crate::mask::Mask;
use crate::{Result, RunId};

/// Values by name.
pub(crate) type Values = BTreeMap<String, String>;

/// All secrets of a platform.
pub(crate) struct Secrets {
    place: Place,
    /// They outlive the secrets, as telemetry may arrive after a job's end. `None`: the job has no secrets.
    masks: Mutex<HashMap<RunId, Option<Arc<Mask>>>>,
}

enum Place {
    Files(Files),
    Records(Records),
}

/// A job's secrets, as far as they are there.
pub(crate) enum Found {
    Values(Values),
    /// The job was submitted without any.
    Never,
    /// There are none now; the job's row says whether it had any.
    None,
}

impl Secrets {
    pub(crate) fn files(folder: PathBuf) -> Self {
        Self { place: Place::Files(Files::new(folder)), masks: Mutex::default() }
    }

    pub(crate) fn records(db: Arc<Db>, keys: Arc<Keys>) -> Self {
        Self { place: Place::Records(Records::new(db, keys)), masks: Mutex::default() }
    }

    /// Stores a job's secrets before the job, or returns what the job's transaction must [`store`].
    pub(crate) fn keep(&self, run: &RunId, values: &Values) -> Result<Option<Sealed>> {
        match &self.place {
            Place::Files(files) => files.keep(run, values).map(|()| None),
            Place::Records(records) => records.seal(run, values).map(Some),
        }
    }

    /// A job's secrets; `None` if it has none, or they are removed. The job's row says which.
    pub(crate) fn read(&self, run: &RunId) -> Result<Option<Values>> {
        Ok(match self.find(run)? {
            Found::Values(values) => Some(values),
            Found::Never | Found::None => None,
        })
    }

    fn find(&self, run: &RunId) -> Result<Found> {
        match &self.place {
            Place::Files(files) => files.read(run),
            Place::Records(records) => records.read(run),
        }
    }

    /// The mask of a job's secrets; `None` if it has none, or they are removed. It fails if they
    /// cannot be masked: then no data of the job may be stored.
    pub(crate) fn mask(&self, run: &RunId) -> Result<Option<Arc<Mask>>> {
        if let Some(mask) = self.lock().get(run) {
            return Ok(mask.clone());
        }
        let mask = match self.find(run)? {
            Found::Values(values) => Some(Arc::new(Mask::new(values.values())?)),
            Found::Never => None,
            Found::None => return Ok(None),
        };
        self.lock().insert(*run, mask.clone());
        Ok(mask)
    }

    /// Removes the file of a job's secrets. Their mask stays until [`Secrets::forget_masks`]. A record is
    /// removed by [`forget`].
    pub(crate) fn remove(&self, run: &RunId) -> Result<()> {
        match &self.place {
            Place::Files(files) => files.remove(run),
            Place::Records(_) => Ok(()),
        }
    }

    /// Drops the masks of all other jobs.
    pub(crate) fn forget_masks(&self, but: &HashSet<RunId>) {
        self.lock().retain(|run, _| but.contains(run));
    }

    /// Removes the files of all other jobs.
    pub(crate) fn remove_all_but(&self, jobs: &[RunId]) -> Result<()> {
        match &self.place {
            Place::Files(files) => files.remove_all_but(jobs),
            Place::Records(_) => Ok(()),
        }
    }

    /// Seals records with the first key that are sealed with another one.
    pub(crate) fn renew(&self) -> Result<()> {
        match &self.place {
            Place::Files(_) => Ok(()),
            Place::Records(records) => records.renew(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Option<Arc<Mask>>>> {
        self.masks.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_outlives_its_secrets_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::files(dir.path().to_owned());
        let run = RunId::random();
        secrets.keep(&run, &Values::from([("KEY".into(), "hunter22".into())])).unwrap();
        secrets.mask(&run).unwrap();
        secrets.remove(&run).unwrap();

        assert!(secrets.mask(&run).unwrap().is_some());
        secrets.forget_masks(&HashSet::new());
        assert!(secrets.mask(&run).unwrap().is_none());
    }
}
