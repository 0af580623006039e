//! The keys of a shared database: its platforms must have them in common.
//!
//! The table `keys` has the public name of each key that a platform seals and signs with, and when one last
//! said so. A platform without one of them is rejected as long as secrets are sealed with it, or URLs that
//! it signed may be in use. After that the key is forgotten.

use std::time::Duration;

use super::Keys;
use crate::clock::millis;
use crate::db::Db;
use crate::{Error, Result};

/// How long a key counts as used after a platform last said so, beyond the lifetime of its URLs: twice the
/// interval of the timer's checks.
const USED: Duration = Duration::from_secs(2 * 60 * 60);

impl Keys {
    /// Checks that no other platform of the database uses a key that this one lacks, and says that
    /// this one uses its first.
    pub(crate) fn check(&self, db: &Db, url_lifetime: Duration) -> Result<()> {
        let own: Vec<String> = self.all().map(|key| key.id.clone()).collect();
        let first = self.first.id.clone();
        let path = self.path.clone();
        let used = millis(USED.saturating_add(url_lifetime));
        db.write("check the keys", move |tx| {
            // Two platforms with different keys may start at once.
            tx.lock_names(&["keys"])?;
            let query = "SELECT id, used,
                             (SELECT count(*) FROM secrets WHERE secrets.key = keys.id) FROM keys";
            let all: Vec<(String, i64, u64)> =
                tx.query_all(query, &[], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            for (key, last, jobs) in all.into_iter().filter(|(key, ..)| !own.contains(key)) {
                if jobs > 0 || last > tx.now().saturating_sub(used) {
                    return Err(Error::ForeignKey { key, path: path.clone(), jobs }.into());
                }
                tx.execute("DELETE FROM keys WHERE id = ?1", &[&key])?;
            }
            let set = "INSERT INTO keys (id, used) VALUES (?1, ?2)
                       ON CONFLICT (id) DO UPDATE SET used = ?2";
            tx.execute(set, &[&first, &tx.now()]).map(drop)
        })
    }
}
