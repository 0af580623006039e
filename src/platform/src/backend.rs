//! Everything that a platform has, and what each of its operations needs of it. The operations
//! themselves are in the files named after what they are about, as more methods of [`Backend`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bell::{Bell, Topic, Woken};
use crate::blob::Blobs;
use crate::clock::after;
use crate::db::Db;
use crate::folder::Folder;
use crate::http::Method;
use crate::key::{self, Key, Tag};
use crate::presence::Presence;
use crate::secret::Secrets;
use crate::{Config, Error, Refusal, Result, sign};

/// How long telemetry is taken after a job's end.
pub(crate) const AFTERMATH: Duration = Duration::from_secs(10 * 60);

/// The platform without its server and its threads.
pub(crate) struct Backend {
    pub(crate) config: Config,
    pub(crate) db: Db,
    pub(crate) blobs: Arc<Blobs>,
    pub(crate) secrets: Secrets,
    pub(crate) presence: Presence,
    pub(crate) bell: Bell,
    pub(crate) key: Arc<Key>,
    pub(crate) runner_token: String,
    runner_token_hash: Tag,
    // Last, so that the lock goes when all else is closed.
    pub(crate) folder: Folder,
}

impl Backend {
    /// Opens the state folder.
    pub(crate) fn open(config: Config) -> Result<Self> {
        let folder = Folder::open(&config.state)?;
        let runner_token = key::runner_token(&folder.runner_token())?;
        let backend = Self {
            db: Db::open(&folder.database())?,
            blobs: Arc::new(Blobs::new(folder.blobs(), folder.partial())),
            secrets: Secrets::new(folder.secrets()),
            presence: Presence::default(),
            bell: Bell::default(),
            key: Arc::new(Key::open(&folder.key())?),
            runner_token_hash: key::hash(&runner_token),
            runner_token,
            folder,
            config,
        };
        let open = backend.open_runs()?;
        backend.secrets.remove_all_but(&open)?;
        Ok(backend)
    }

    /// Lets in who has the runners' token.
    pub(crate) fn check_runner(&self, token: Option<&str>) -> Result<(), Refusal> {
        let hash = key::hash(token.ok_or(Refusal::Unauthenticated)?);
        match key::same(&hash, &self.runner_token_hash) {
            true => Ok(()),
            false => Err(Refusal::Unauthenticated),
        }
    }

    /// A URL that carries its own permission.
    pub(crate) fn url(&self, base: &str, method: Method, path: &str) -> String {
        sign::url(&self.key, base, method, path, self.config.url_lifetime)
    }

    /// Looks until there is something, at once and after each ring of the topic, for as long as
    /// `hold`.
    pub(crate) fn held<T>(
        &self,
        topic: Topic,
        hold: Duration,
        mut look: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let deadline = after(Instant::now(), hold);
        let mut watch = self.bell.watch(topic);
        loop {
            if let Some(found) = look()? {
                return Ok(Some(found));
            }
            match watch.wait(deadline) {
                Woken::Changed => {}
                Woken::Deadline => return Ok(None),
                Woken::Stopped => return Err(Error::Stopped),
            }
        }
    }
}
