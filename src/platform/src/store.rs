//! Where archives, manifests and histories are: files of the state folder, or objects of a bucket.
//!
//! | | files | a bucket |
//! |---|---|---|
//! | a name | the content's SHA-256 | new for each content, with a `-` |
//! | an upload | the platform receives and checks it | the store receives it; the platform checks and copies it when it is committed |
//! | a download | from the platform | from the store |
//!
//! INVARIANT: the database names an object of a bucket (in `staged`) before the object exists, and until
//! something else names it. An object without a name in the database is garbage, whichever platform made it.

mod objects;

use std::sync::Arc;

pub(crate) use self::objects::{Objects, Page, Temporary};
use crate::blob::Blobs;
use crate::config::Content;
use crate::db::{Db, Outcome, Tx};
use crate::folder::Folder;
use crate::{Config, Error, Refusal, Result};

/// The store of a platform.
pub(crate) enum Store {
    Files(Arc<Blobs>),
    Bucket(Box<Objects>),
}

impl Store {
    /// Opens the configured store. It must be the one that the database's content is in.
    pub(crate) fn open(config: &Config, folder: &Folder, db: &Db) -> Result<Self> {
        let is_bucket = matches!(config.content, Content::Bucket { .. });
        let is_elsewhere = db.read("look where the content is", move |tx| {
            let like = if is_bucket { "NOT LIKE" } else { "LIKE" };
            let query = format!(
                "SELECT 1 FROM versions WHERE archive {like} '%-%'
                 UNION ALL SELECT 1 FROM histories WHERE blob {like} '%-%' LIMIT 1"
            );
            tx.exists(&query, &[])
        })?;
        if is_elsewhere {
            let content = if is_bucket { "files of a state folder" } else { "a bucket" };
            return Err(Error::ContentElsewhere { content });
        }
        Ok(match &config.content {
            Content::Files => Self::Files(Arc::new(Blobs::new(folder.blobs(), folder.partial()))),
            Content::Bucket { bucket, prefix } => {
                Self::Bucket(Box::new(Objects::open(bucket, prefix, config.url_lifetime)?))
            }
        })
    }

    /// The files. Without them the platform has no URLs of its own for content.
    pub(crate) fn files(&self) -> Result<&Arc<Blobs>, Refusal> {
        match self {
            Self::Files(blobs) => Ok(blobs),
            Self::Bucket(_) => Err(Refusal::NoRoute),
        }
    }

    /// Where guests reach the bucket; `None` for files.
    pub(crate) fn origin(&self) -> Option<String> {
        match self {
            Self::Files(_) => None,
            Self::Bucket(objects) => Some(objects.origin()),
        }
    }
}

/// Reserves the name of an object that is about to be made.
pub(crate) fn stage(tx: &Tx<'_>, name: &str) -> Outcome<()> {
    let add = "INSERT INTO staged (name, created) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
    tx.execute(add, &[&name, &tx.now()]).map(drop)
}

/// Whether a name is reserved.
pub(crate) fn staged(tx: &Tx<'_>, name: &str) -> Outcome<bool> {
    tx.exists("SELECT 1 FROM staged WHERE name = ?1", &[&name])
}

/// Gives up the reservation, as something else names the object from here on. Without a reservation the
/// object may have been removed: the client must begin again.
pub(crate) fn unstage(tx: &Tx<'_>, name: &str) -> Outcome<()> {
    match tx.execute("DELETE FROM staged WHERE name = ?1", &[&name])? {
        0 => Err(Refusal::Busy.into()),
        _ => Ok(()),
    }
}

/// The parts of an upload: a part has at least 64 MiB, and there are at most 1,000.
pub(crate) fn part_size(size: u64) -> u64 {
    size.div_ceil(1000).max(objects::LARGEST_SINGLE)
}

/// Whether an archive of this size is uploaded in parts.
pub(crate) fn is_large(size: u64) -> bool {
    size > objects::LARGEST_SINGLE
}
