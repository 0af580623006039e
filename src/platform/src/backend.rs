//! The state that all operations of the platform share. Each operation is a method of [`Backend`] in the
//! file of its subject.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base::deadline::after;
use http_server::Method;

use uuid::Uuid;

use crate::clock::millis;
use crate::db::Db;
use crate::folder::Folder;
use crate::key::{self, Keys, Tag};
use crate::notifier::{Notifier, Topic, Woken};
use crate::placement::Placement;
use crate::presence::Presence;
use crate::secret::Secrets;
use crate::store::Store;
use crate::token::RecentTokens;
use crate::{Config, Error, Result, sign};

/// For how long after the end of a job its telemetry is accepted.
pub(crate) const TELEMETRY_GRACE: Duration = Duration::from_secs(10 * 60);

/// The platform without its server and its threads.
pub(crate) struct Backend {
    pub(crate) config: Config,
    pub(crate) db: Arc<Db>,
    pub(crate) store: Store,
    pub(crate) secrets: Secrets,
    pub(crate) presence: Presence,
    pub(crate) notifier: Notifier,
    pub(crate) placement: Placement,
    pub(crate) keys: Arc<Keys>,
    pub(crate) runner_token: String,
    pub(crate) runner_token_hash: Tag,
    pub(crate) recent_tokens: RecentTokens,
    // Last, so that the lock is released after everything else is closed.
    pub(crate) folder: Folder,
}

impl Backend {
    /// Opens the state folder.
    pub(crate) fn open(config: Config) -> Result<Self> {
        let folder = Folder::open(&config.state)?;
        let runner_token = key::runner_token(&folder.runner_token())?;
        let keys = Arc::new(Keys::open(&config, &folder)?);
        let db = Arc::new(Db::open(&config.database, &folder.database())?);
        let secrets = if db.is_shared() {
            Secrets::records(Arc::clone(&db), Arc::clone(&keys))
        } else {
            Secrets::files(folder.secrets())
        };
        let backend = Self {
            store: Store::open(&config, &folder, &db)?,
            db,
            secrets,
            presence: Presence::default(),
            notifier: Notifier::default(),
            placement: Placement::default(),
            keys,
            runner_token_hash: key::hash(&runner_token),
            runner_token,
            recent_tokens: RecentTokens::default(),
            folder,
            config,
        };
        backend.check_keys()?;
        let open = backend.open_runs()?;
        backend.secrets.remove_all_but(&open)?;
        Ok(backend)
    }

    /// Checks that other platforms of a shared database have no key that this one lacks.
    fn check_keys(&self) -> Result<()> {
        if !self.db.is_shared() {
            return Ok(());
        }
        self.keys.check(&self.db, self.config.url_lifetime)
    }

    /// Says that the first key is in use, and seals with it what is sealed with another one.
    pub(crate) fn look_after_keys(&self) -> Result<()> {
        self.check_keys().and(self.secrets.renew())
    }

    /// The id of the runners in processes that serve this state folder, one after the other.
    pub(crate) fn local_runner(&self) -> Result<Uuid> {
        if !self.db.is_shared() {
            return Ok(Uuid::nil());
        }
        // Others on this database have runners in their processes, too.
        key::local_runner(&self.folder.local_runner())
    }

    /// A presigned URL.
    pub(crate) fn url(&self, base: &str, method: Method, path: &str) -> String {
        let expires = self.db.now().saturating_add(millis(self.config.url_lifetime));
        sign::url(&self.keys, base, method, path, expires)
    }

    /// A presigned URL of content. `base` is that of the platform's own URLs.
    pub(crate) fn download_url(&self, base: &str, name: &str) -> String {
        match &self.store {
            Store::Files(_) => self.url(base, Method::Get, &format!("/blobs/{name}?")),
            Store::Bucket(objects) => objects.download_url(name),
        }
    }

    /// Calls `look` at once and after each notification of the topic, until it finds something or
    /// `hold` has passed.
    pub(crate) fn held<T>(
        &self,
        topic: Topic,
        hold: Duration,
        mut look: impl FnMut() -> Result<Look<T>>,
    ) -> Result<Option<T>> {
        let deadline = after(Instant::now(), hold);
        let mut subscription = self.notifier.subscribe(topic);
        loop {
            let until = match look()? {
                Look::Found(found) => return Ok(Some(found)),
                Look::Again(delay) => deadline.min(Instant::now() + delay),
                Look::Nothing => deadline,
            };
            match subscription.wait(until) {
                Woken::Changed => {}
                Woken::Deadline if deadline <= Instant::now() => return Ok(None),
                Woken::Deadline => {}
                Woken::Stopped => return Err(Error::Stopped),
            }
        }
    }
}

/// What was found.
pub(crate) enum Look<T> {
    Found(T),
    /// Nothing yet, and there may be something after this time without a notification.
    Again(Duration),
    Nothing,
}

impl<T> From<Option<T>> for Look<T> {
    fn from(found: Option<T>) -> Self {
        found.map_or(Self::Nothing, Self::Found)
    }
}
