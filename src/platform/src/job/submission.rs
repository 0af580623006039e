//! New jobs: the submission, its checks, and the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use base::error::chain;
use base::exec_limit;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::show::check_submitter;
use super::{Backend, Mount, OF_CHECKPOINT, find, mounts};
use crate::clock::millis;
use crate::db::{Outcome, ToValue, Tx};
use crate::key::{Sealed, Tag};
use crate::mask::Mask;
use crate::notifier::Topic;
use crate::principal::{Principal, scope};
use crate::{Error, Refusal, Result, RunId, secret};

/// The agents that a submission may name.
const AGENTS: [&str; 2] = ["claude-code", "codex"];

/// The largest environment of an agent: the kernel's limit, less the needs of the agent's own
/// program and variables.
const LARGEST_ENVIRONMENT: usize = exec_limit::TOTAL - (256 << 10);

/// Members of the execution context that other fields of the submission set, or the platform.
const RESERVED: [&str; 13] = [
    "runId",
    "prompt",
    "sandboxToken",
    "cliAgentType",
    "checkpointId",
    "environment",
    "secretValues",
    "encryptedSecrets",
    "storageManifest",
    "resumeSession",
    "apiStartTime",
    "experimentalProfile",
    "secretConnectorMap",
];

/// A new job. Only the prompt is required.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Submission {
    /// The prompt for the agent.
    pub prompt: String,
    /// The agent. Default: that of the resumed job, else `claude-code`.
    pub agent: Option<String>,
    /// The profile of the VM. Default: any.
    pub profile: Option<String>,
    /// The group whose runners may take the job. Default: that of the resumed job, else
    /// [`Config::group`](crate::Config::group).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The agent's environment.
    pub environment: BTreeMap<String, String>,
    /// More environment variables, which are masked everywhere and are in no database in clear.
    pub secrets: BTreeMap<String, String>,
    /// Artifacts, from [`Client::upload`](crate::Client::upload).
    pub artifacts: Vec<Mount>,
    /// The job whose latest checkpoint is resumed: its session and its artifacts, not its
    /// environment and secrets. Artifacts of the submission replace those of the same name or mount
    /// point.
    pub resume: Option<RunId>,
    /// The time limit, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The idempotency key: of several submissions with the same key only the first makes a job.
    pub key: Option<String>,
    /// More members of the execution context: `settings`, `firewalls` …
    pub context: Map<String, Value>,
}

/// Prints names of variables, and no values.
impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.environment.keys().chain(self.secrets.keys()).collect();
        f.debug_struct("Submission")
            .field("profile", &self.profile)
            .field("group", &self.group)
            .field("environment", &names)
            .finish_non_exhaustive()
    }
}

/// The reply to a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Submitted {
    /// The job.
    pub run_id: RunId,
    /// Whether the job is new. If not, an earlier submission had the same key and content.
    pub is_new: bool,
    /// The reason for which no connected runner takes the job, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

impl Backend {
    /// Queues a job. It is on the disk when this returns.
    pub(crate) fn submit(&self, mut submission: Submission, by: &Principal) -> Result<Submitted> {
        check(&submission)?;
        submission.key = submission.key.map(|key| by.scoped(&key));
        let by = by.clone();
        let run = RunId::random();
        let bytes = serde_json::to_vec(&submission).map_err(|source| Error::BadRow { source })?;
        let fingerprints = self.keys.fingerprints(&bytes);
        let mut sealed = None;
        if !submission.secrets.is_empty() {
            // Secrets that cannot be masked are rejected now, not at the claim.
            Mask::new(submission.secrets.values())?;
            sealed = self.secrets.keep(&run, &submission.secrets)?;
        }
        let timeout = submission.timeout_ms.map_or(self.config.timeout, Duration::from_millis);
        let default_group = self.config.group.clone();
        let submitted = self.db.write("submit a job", move |tx| {
            let key = submission.key.as_deref();
            if let Some(run) = earlier(tx, key, &run, &fingerprints)? {
                return Ok((run, None));
            }
            let terms = Terms {
                fingerprint: fingerprints.first(),
                timeout: millis(timeout),
                group: default_group.as_deref(),
                sealed: sealed.as_ref(),
            };
            let group = insert(tx, &run, &submission, &terms, &by)?;
            Ok((run, Some((submission.profile.clone(), group))))
        });
        let is_stored = matches!(&submitted, Ok((run_id, _)) if *run_id == run);
        if !is_stored {
            // A file that cannot be removed now is removed at the next start.
            self.secrets.remove(&run).unwrap_or_else(|error| log::warn!("{}", chain(&error)));
        }
        self.notifier.notify(Topic::Work);
        let (run_id, new) = submitted?;
        // The job is queued, so a failure to explain it is none of the submission.
        let waits = new.and_then(|(profile, group)| {
            let waits = self.waits(profile.as_deref(), group.as_deref());
            waits.unwrap_or_else(|error| {
                log::debug!("cannot look for runners; error={}", chain(&error));
                None
            })
        });
        Ok(Submitted { run_id, is_new: run_id == run, waits })
    }
}

/// The job of an earlier submission with this key, or that of this one.
fn earlier(
    tx: &Tx<'_>,
    key: Option<&str>,
    run: &RunId,
    fingerprints: &[Tag],
) -> Outcome<Option<RunId>> {
    let query = "SELECT run, fingerprint FROM jobs WHERE submission_key = ?1 OR run = ?2";
    let found: Option<(RunId, Tag)> =
        tx.query_opt(query, &[&key, run], |row| Ok((row.get(0)?, row.get(1)?)))?;
    match found {
        Some((_, other)) if !fingerprints.contains(&other) => Err(Refusal::KeyReused.into()),
        found => Ok(found.map(|(run, _)| run)),
    }
}

/// What a submission is completed with.
struct Terms<'a> {
    fingerprint: Option<&'a Tag>,
    /// In milliseconds.
    timeout: i64,
    group: Option<&'a str>,
    sealed: Option<&'a Sealed>,
}

/// Returns the group of the job.
fn insert(
    tx: &Tx<'_>,
    run: &RunId,
    submission: &Submission,
    terms: &Terms<'_>,
    by: &Principal,
) -> Outcome<Option<String>> {
    check_owned(tx, submission, by)?;
    let resumed = submission.resume.map(|run| Resumed::find(tx, &run)).transpose()?;
    let agent = submission.agent.as_deref();
    let agent = agent.or(resumed.as_ref().map(|resumed| resumed.agent.as_str()));
    let agent = agent.unwrap_or(AGENTS[0]);
    if resumed.as_ref().is_some_and(|resumed| resumed.agent != agent) {
        return Err(Refusal::bad("a session can only be resumed by its own agent").into());
    }
    let all = resumed.as_ref().map(|resumed| resumed.artifacts.as_slice()).unwrap_or_default();
    let of_resumed = resumed.as_ref().and_then(|resumed| resumed.group.as_deref());
    let group = submission.group.as_deref().or(of_resumed).or(terms.group);
    let artifacts = together(&submission.artifacts, all);
    let add = "INSERT INTO jobs (run, submission_key, fingerprint, status, agent, profile, prompt,
                   environment, context, has_secrets, timeout, resumed, session, created, reuse_key,
                   runner_group, submitted_by)
               VALUES (?1, ?2, ?3, 'queued', ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
                   ?14, ?15, ?16)
               RETURNING id";
    let row: [&dyn ToValue; 16] = [
        run,
        &submission.key,
        &terms.fingerprint,
        &agent,
        &submission.profile,
        &submission.prompt,
        &serde_json::to_string(&submission.environment)?,
        &serde_json::to_string(&submission.context)?,
        &!submission.secrets.is_empty(),
        &terms.timeout,
        &resumed.as_ref().map(|resumed| &resumed.checkpoint),
        &resumed.as_ref().map(|resumed| &resumed.session),
        &tx.now(),
        &resumed.as_ref().map_or_else(|| run.to_string(), |resumed| resumed.reuse_key.clone()),
        &group,
        &by.name(),
    ];
    let job: i64 = tx.query_one(add, &row, |row| row.get(0))?;
    for mount in artifacts {
        add_mount(tx, job, &mount)?;
    }
    terms.sealed.map_or(Ok(()), |sealed| secret::store(tx, job, sealed))?;
    Ok(group.map(str::to_owned))
}

/// Checks that a submitter resumes its own jobs only, and uses its own artifacts only.
fn check_owned(tx: &Tx<'_>, submission: &Submission, by: &Principal) -> Outcome<()> {
    let Some(submitter) = by.submitter() else { return Ok(()) };
    if let Some(run) = &submission.resume {
        check_submitter(tx, run, submitter)?;
    }
    let scope = scope(submitter);
    for Mount { name, storage_id, .. } in &submission.artifacts {
        let query = "SELECT name FROM storages WHERE id = ?1";
        let storage: Option<String> = tx.query_opt(query, &[storage_id], |row| row.get(0))?;
        if !storage.is_some_and(|storage| storage.starts_with(&scope)) {
            return Err(Refusal::NotFound { what: format!("version of artifact `{name}`") }.into());
        }
    }
    Ok(())
}

fn add_mount(tx: &Tx<'_>, job: i64, mount: &Mount) -> Outcome<()> {
    let query = "SELECT 1 FROM versions WHERE storage = ?1 AND version = ?2";
    if !tx.exists(query, &[&mount.storage_id, &mount.version_id])? {
        return Err(
            Refusal::NotFound { what: format!("version of artifact `{}`", mount.name) }.into()
        );
    }
    let add =
        "INSERT INTO mounts (job, name, storage, version, mount_path) VALUES (?1, ?2, ?3, ?4, ?5)";
    let Mount { name, storage_id, version_id, mount_path } = mount;
    tx.execute(add, &[&job, name, storage_id, version_id, mount_path]).map(drop)
}

/// The new artifacts, and the resumed ones that they do not replace.
fn together(new: &[Mount], before: &[Mount]) -> Vec<Mount> {
    let stays = |old: &&Mount| {
        !new.iter().any(|one| one.name == old.name || one.mount_path == old.mount_path)
    };
    new.iter().chain(before.iter().filter(stays)).cloned().collect()
}

/// The parts of a checkpoint that a job resumes.
struct Resumed {
    checkpoint: String,
    agent: String,
    session: String,
    reuse_key: String,
    group: Option<String>,
    artifacts: Vec<Mount>,
}

impl Resumed {
    fn find(tx: &Tx<'_>, run: &RunId) -> Outcome<Self> {
        let (job, _) = find(tx, run)?;
        let query = "SELECT checkpoints.id, checkpoints.agent, coalesce(checkpoints.session, ''),
                         COALESCE(reuse_key, run), runner_group
                     FROM checkpoints JOIN jobs ON jobs.id = job WHERE job = ?1
                     ORDER BY checkpoints.attempt DESC LIMIT 1";
        let found = tx.query_opt(query, &[&job], |row| {
            Ok(Self {
                checkpoint: row.get(0)?,
                agent: row.get(1)?,
                session: row.get(2)?,
                reuse_key: row.get(3)?,
                group: row.get(4)?,
                artifacts: Vec::new(),
            })
        })?;
        let missing = || Refusal::NotFound { what: format!("checkpoint of job {run}") };
        let mut resumed = found.ok_or_else(missing)?;
        if resumed.session.is_empty() {
            return Err(Refusal::NoSession { run: *run }.into());
        }
        resumed.artifacts = mounts(tx, OF_CHECKPOINT, &resumed.checkpoint)?;
        Ok(resumed)
    }
}

fn check(submission: &Submission) -> Result<(), Refusal> {
    if submission.prompt.trim().is_empty() {
        return Err(Refusal::bad("the prompt is empty"));
    }
    if let Some(agent) = submission.agent.as_deref().filter(|agent| !AGENTS.contains(agent)) {
        return Err(Refusal::bad(format!(
            "no agent `{agent}`: expected one of {}",
            AGENTS.join(", ")
        )));
    }
    if submission.group.as_deref().is_some_and(|group| !contract::is_group(group)) {
        return Err(Refusal::bad("`group` is not of the form scope/name"));
    }
    if submission.timeout_ms == Some(0) {
        return Err(Refusal::bad("the timeout must be longer than 0"));
    }
    let mut names = submission.environment.keys().chain(submission.secrets.keys());
    if let Some(name) = names.find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(Refusal::bad(format!("{name:?} cannot be the name of a variable")));
    }
    let variables = submission.environment.iter().chain(&submission.secrets);
    let variables = variables.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    exec_limit::check([], variables, LARGEST_ENVIRONMENT)
        .map_err(|excess| Refusal::bad(excess.to_string()))?;
    if let Some(name) = RESERVED.iter().find(|name| submission.context.contains_key(**name)) {
        return Err(Refusal::bad(format!("a submission cannot set `{name}` of the context")));
    }
    let mut taken = BTreeSet::new();
    for mount in &submission.artifacts {
        if mount.name.is_empty() || !mount.mount_path.starts_with('/') {
            return Err(Refusal::bad("an artifact needs a name and an absolute path"));
        }
        if !taken.insert(&mount.name) || !taken.insert(&mount.mount_path) {
            return Err(Refusal::bad("two artifacts have the same name or path"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(variable: &str, length: usize, secrets: usize) -> Option<String> {
        let mut submission = Submission { prompt: "hi".into(), ..Submission::default() };
        submission.environment.insert(variable.into(), "x".repeat(length));
        let secret = |at: usize| (format!("SECRET_{at:02}"), "y".repeat(100_000));
        submission.secrets.extend((0..secrets).map(secret));
        check(&submission).err().map(|refusal| refusal.to_string())
    }

    #[test]
    fn a_variable_over_the_kernels_limit_is_rejected_by_name() {
        let text = refusal("BIG", 200_000, 0).unwrap();
        assert!(text.contains("variable `BIG` has 200005 bytes"), "{text}");
    }

    #[test]
    fn variables_and_secrets_count_together() {
        assert_eq!(refusal("BIG", 100_010, 17), None);
        let text = refusal("BIG", 100_010, 18).unwrap();
        assert!(text.contains("the longest is variable `BIG`"), "{text}");
        assert!(!text.contains("yyy"), "{text}");
    }
}
