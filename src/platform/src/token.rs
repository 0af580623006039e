//! Tokens of runners, operators and submitters, in the database: every platform that shares it knows them, and
//! a revoked one is unknown to all of them at once.
//!
//! | role | may |
//! |---|---|
//! | `runner` | take jobs, of its group only if it is bound to one |
//! | `operator` | everything of `/v1` |
//! | `submitter` | submit jobs; see, follow and cancel those of its own name, and copy their artifacts |
//!
//! INVARIANT: the database has the hash of a token only. A token is in one reply, that to its creation.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use base::hex;
use base::sync::Mutex;
use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::clock::millis;
use crate::db::{FromValue, Row, ToValue, Value};
use crate::key::{Tag, hash, random, same};
use crate::{Refusal, Result};

/// How often a token's use is written down.
const USE_INTERVAL: Duration = Duration::from_secs(60);

/// For how long a runner may poll without another look at its token. It claims nothing without one.
const REMEMBERED: Duration = Duration::from_secs(1);

/// The most tokens that are remembered.
const MOST_REMEMBERED: usize = 1000;

/// The longest name.
const LONGEST_NAME: usize = 64;

/// The name of the token in the state folder, in refusals. No other token can have it.
const TOKEN_FILE: &str = "(runner token file)";

/// What the holder of a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes jobs.
    Runner,
    /// Sees and does everything.
    Operator,
    /// Submits jobs, and has access to these only.
    Submitter,
}

impl Role {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Runner => "runner",
            Self::Operator => "operator",
            Self::Submitter => "submitter",
        }
    }
}

impl FromValue for Role {
    fn from_value(value: Value<'_>) -> Option<Self> {
        let name = String::from_value(value)?;
        [Self::Runner, Self::Operator, Self::Submitter].into_iter().find(|role| role.name() == name)
    }
}

/// A token that is to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewToken {
    /// Its name, which no other token has: 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub name: String,
    /// What its holder may do.
    pub role: Role,
    /// The only group whose runners may use it. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The time until it expires, in milliseconds. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_ms: Option<u64>,
}

/// A token without its secret. Times are milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(missing_docs, reason = "the names say it")]
pub struct Token {
    pub name: String,
    pub role: Role,
    pub group: Option<String>,
    pub created_ms: i64,
    pub expires_ms: Option<i64>,
    pub is_expired: bool,
    /// The last use, to a minute.
    pub last_used_ms: Option<i64>,
}

/// The reply to the creation of a token.
#[derive(Clone, Serialize, Deserialize)]
pub struct CreatedToken {
    /// The token.
    pub token: Token,
    /// Its secret, which is not stored.
    pub secret: String,
}

/// Prints no secret.
impl fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedToken").field("token", &self.token).finish_non_exhaustive()
    }
}

/// A token that was presented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) group: Option<String>,
}

impl Grant {
    fn check_role(&self, role: Role) -> Result<(), Refusal> {
        if self.role == role {
            return Ok(());
        }
        let (found, wanted) = (self.role.name(), role.name());
        Err(Refusal::WrongRole { name: self.name.clone(), found, wanted })
    }

    /// Checks that a runner's token is for the group that it names.
    pub(crate) fn check_group(&self, found: &str) -> Result<(), Refusal> {
        match &self.group {
            Some(group) if group != found => Err(Refusal::WrongTokenGroup {
                name: self.name.clone(),
                group: group.clone(),
                found: found.to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// The runners' tokens that were looked up lately.
#[derive(Default)]
pub(crate) struct RecentTokens(Mutex<HashMap<Tag, (Grant, Instant)>>);

impl RecentTokens {
    fn get(&self, hash: &Tag) -> Option<Grant> {
        let recent = self.0.lock();
        let (grant, at) = recent.get(hash)?;
        (at.elapsed() < REMEMBERED).then(|| grant.clone())
    }

    fn insert(&self, hash: Tag, grant: &Grant) {
        let mut recent = self.0.lock();
        if recent.len() >= MOST_REMEMBERED {
            recent.clear();
        }
        recent.insert(hash, (grant.clone(), Instant::now()));
    }
}

impl Backend {
    /// Makes a token.
    pub(crate) fn create_token(&self, new: NewToken) -> Result<CreatedToken> {
        check(&new)?;
        let secret = format!("{}_{}", new.role.name(), hex::encode(&random()?));
        let hash = hash(&secret);
        let token = self.db.write("create a token", move |tx| {
            let created = tx.now();
            let expires = new
                .expires_in_ms
                .map(|time| created.saturating_add(i64::try_from(time).unwrap_or(i64::MAX)));
            let NewToken { name, role, group, .. } = &new;
            let add = "INSERT INTO tokens (name, role, runner_group, hash, created, expires)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO NOTHING";
            let row: [&dyn ToValue; 6] = [name, &role.name(), group, &hash, &created, &expires];
            if tx.execute(add, &row)? == 0 {
                let query = "SELECT hash FROM tokens WHERE name = ?1";
                let known: Option<Tag> = tx.query_opt(query, &[name], |row| row.get(0))?;
                // It is this one if the transaction was committed and ran again.
                if known != Some(hash) {
                    return Err(Refusal::TokenExists { name: name.clone() }.into());
                }
            }
            let query = format!("{LIST} WHERE name = ?1");
            tx.query_one(&query, &[name], |row| read(row, created))
        })?;
        log::info!("token created; name={} role={}", token.name, token.role.name());
        Ok(CreatedToken { token, secret })
    }

    /// All tokens, by name.
    pub(crate) fn tokens(&self) -> Result<Vec<Token>> {
        self.db.read("list tokens", |tx| {
            tx.query_all(&format!("{LIST} ORDER BY name"), &[], |row| read(row, tx.now()))
        })
    }

    /// Revokes a token: the next request with it is refused by every platform.
    pub(crate) fn revoke_token(&self, name: &str) -> Result<()> {
        let owned = name.to_owned();
        let count = self.db.write_once("revoke a token", move |tx| {
            tx.execute("DELETE FROM tokens WHERE name = ?1", &[&owned])
        })?;
        if count == 0 {
            return Err(Refusal::NoToken { name: name.to_owned() }.into());
        }
        self.recent_tokens.0.lock().clear();
        log::info!("token revoked; name={name}");
        Ok(())
    }

    /// The grant of a runner's token.
    pub(crate) fn runner_grant(&self, token: Option<&str>) -> Result<Grant> {
        let token = token.ok_or(Refusal::Unauthenticated)?;
        let hash = hash(token);
        if same(&hash, &self.runner_token_hash) {
            return Ok(Grant { name: TOKEN_FILE.to_owned(), role: Role::Runner, group: None });
        }
        let grant = self.grant(token)?;
        grant.check_role(Role::Runner)?;
        self.recent_tokens.insert(hash, &grant);
        Ok(grant)
    }

    /// As [`Backend::runner_grant`], for requests that give nothing away but whether there is a job.
    pub(crate) fn recent_runner_grant(&self, token: Option<&str>) -> Result<Grant> {
        let recent = token.and_then(|token| self.recent_tokens.get(&hash(token)));
        recent.map_or_else(|| self.runner_grant(token), Ok)
    }

    /// The grant of a token, whose use is written down. It is found by its hash, so the time that this
    /// takes says nothing about other tokens; what has not the form of a token costs no query.
    pub(crate) fn grant(&self, token: &str) -> Result<Grant> {
        if !is_well_formed(token) {
            return Err(Refusal::Unauthenticated.into());
        }
        let hash = hash(token);
        let (grant, is_expired, is_used) = self.db.read("check a token", move |tx| {
            let query =
                "SELECT name, role, runner_group, expires, used FROM tokens WHERE hash = ?1";
            let found = tx.query_opt(query, &[&hash], |row| {
                let grant = Grant { name: row.get(0)?, role: row.get(1)?, group: row.get(2)? };
                let (expires, used): (Option<i64>, Option<i64>) = (row.get(3)?, row.get(4)?);
                let is_expired = expires.is_some_and(|expires| expires <= tx.now());
                let latest = tx.now().saturating_sub(millis(USE_INTERVAL));
                Ok((grant, is_expired, used.is_some_and(|used| used > latest)))
            })?;
            found.ok_or_else(|| Refusal::Unauthenticated.into())
        })?;
        if is_expired {
            return Err(Refusal::TokenExpired { name: grant.name }.into());
        }
        if !is_used {
            self.db.write_relaxed("record the use of a token", move |tx| {
                let set = "UPDATE tokens SET used = ?2
                           WHERE hash = ?1 AND (used IS NULL OR used < ?2)";
                tx.execute(set, &[&hash, &tx.now()])
            })?;
        }
        Ok(grant)
    }
}

const LIST: &str = "SELECT name, role, runner_group, created, expires, used FROM tokens";

fn read(row: &Row<'_>, now: i64) -> crate::db::Outcome<Token> {
    let expires_ms: Option<i64> = row.get(4)?;
    Ok(Token {
        name: row.get(0)?,
        role: row.get(1)?,
        group: row.get(2)?,
        created_ms: row.get(3)?,
        expires_ms,
        is_expired: expires_ms.is_some_and(|expires| expires <= now),
        last_used_ms: row.get(5)?,
    })
}

fn check(new: &NewToken) -> Result<(), Refusal> {
    let good = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
    let name = &new.name;
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(good) {
        let expected = "1 to 64 letters, digits, dots, underscores and hyphens";
        return Err(Refusal::bad(format!("a token's name must have {expected}")));
    }
    if new.role != Role::Runner && new.group.is_some() {
        return Err(Refusal::bad("only a token of a runner is bound to a group"));
    }
    if new.expires_in_ms == Some(0) {
        return Err(Refusal::bad("a token must not expire at once"));
    }
    if new.group.as_deref().is_some_and(|group| !contract::is_group(group)) {
        return Err(Refusal::bad("`group` is not of the form scope/name"));
    }
    Ok(())
}

/// Whether a text has the form of a token.
fn is_well_formed(token: &str) -> bool {
    let random = |rest: &str| {
        rest.len() == 64 && rest.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    match token.split_once('_') {
        Some(("runner" | "operator" | "submitter", rest)) => random(rest),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Error};

    /// A platform with a token, and the token.
    fn backend() -> (Backend, String, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let backend = Backend::open(Config::new(dir.path())).unwrap();
        let expires_in_ms = Some(3_600_000);
        let new = NewToken { name: "ci".into(), role: Role::Submitter, group: None, expires_in_ms };
        let secret = backend.create_token(new).unwrap().secret;
        (backend, secret, dir)
    }

    fn set(backend: &Backend, column: &str, value: i64) {
        let sql = format!("UPDATE tokens SET {column} = ?1");
        backend.db.write("change a token", move |tx| tx.execute(&sql, &[&value])).unwrap();
    }

    fn used(backend: &Backend) -> Option<i64> {
        backend.tokens().unwrap()[0].last_used_ms
    }

    #[test]
    fn an_expired_token_is_refused_by_its_name_and_listed() {
        let (backend, secret, _dir) = backend();
        assert_eq!(backend.grant(&secret).unwrap().name, "ci");

        set(&backend, "expires", backend.db.now());

        let refused = backend.grant(&secret).unwrap_err();
        assert!(matches!(refused, Error::Refused(Refusal::TokenExpired { .. })), "{refused}");
        assert!(backend.tokens().unwrap()[0].is_expired);
    }

    #[test]
    fn the_last_use_of_a_token_is_written_once_a_minute() {
        let (backend, secret, _dir) = backend();
        assert_eq!(used(&backend), None);
        backend.grant(&secret).unwrap();
        let lately = backend.db.now() - 50_000;
        set(&backend, "used", lately);

        backend.grant(&secret).unwrap();
        let soon = used(&backend);
        set(&backend, "used", lately - 20_000);
        backend.grant(&secret).unwrap();

        assert_eq!(soon, Some(lately));
        assert!(used(&backend) > Some(lately));
    }

    #[test]
    fn a_runner_whose_token_was_revoked_elsewhere_claims_nothing() {
        let (backend, _, _dir) = backend();
        let new =
            NewToken { name: "r".into(), role: Role::Runner, group: None, expires_in_ms: None };
        let secret = backend.create_token(new).unwrap().secret;
        backend.recent_runner_grant(Some(&secret)).unwrap();

        let revoke = |tx: &crate::db::Tx<'_>| tx.execute("DELETE FROM tokens", &[]);
        backend.db.write("revoke as another platform does", revoke).unwrap();

        assert!(backend.runner_grant(Some(&secret)).is_err());
    }
}
