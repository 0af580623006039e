//! The runners as the operator sees and rules them.

use uuid::Uuid;

use crate::backend::Backend;
use crate::clock::millis;
use crate::db::{Outcome, Row, Tx};
use crate::health;
use crate::notifier::Topic;
use crate::presence::{LISTED, RUNNER_TIMEOUT, Runner, Unhealthy};
use crate::{Refusal, Result};

/// The minimum length of a prefix of an id.
const SHORTEST: usize = 4;

/// What the operator may do to a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// It gets no more jobs, also after restarts.
    Drain,
    Undrain,
    /// It counts as healthy again.
    Clear,
}

impl Order {
    pub(crate) fn of(name: &str) -> Option<Self> {
        match name {
            "drain" => Some(Self::Drain),
            "undrain" => Some(Self::Undrain),
            "clear" => Some(Self::Clear),
            _ => None,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Undrain => "undrain",
            Self::Clear => "clear",
        }
    }
}

impl Backend {
    /// The runners that sent a heartbeat lately, and the drained ones.
    pub(crate) fn runners(&self) -> Result<Vec<Runner>> {
        self.db.read("list runners", list)
    }

    /// Does something to the runner with this name, id, or prefix of its id; returns it.
    pub(crate) fn rule(&self, name: &str, order: Order) -> Result<Runner> {
        let text = name.to_owned();
        let runner = self.db.write("change a runner", move |tx| {
            let id = find(list(tx)?, &text)?.runner_id;
            let drain = "UPDATE runners SET drained = ?2 WHERE id = ?1";
            match order {
                Order::Drain => drop(tx.execute(drain, &[&id, &true])?),
                Order::Undrain => drop(tx.execute(drain, &[&id, &false])?),
                Order::Clear => drop(health::clear(tx, id)?),
            }
            find(list(tx)?, &id.to_string())
        })?;
        log::info!(
            "runner changed by the operator; runner={} to={}",
            runner.runner_id,
            order.name()
        );
        // It may have a job now, or others may have those of its sessions.
        self.notifier.notify(Topic::Work);
        Ok(runner)
    }
}

fn list(tx: &Tx<'_>) -> Outcome<Vec<Runner>> {
    let query = "SELECT body, seen, drained, strikes, retry, reason FROM runners
                 WHERE body IS NOT NULL AND (seen > ?1 OR drained = 1) ORDER BY id";
    let since = tx.now().saturating_sub(millis(LISTED));
    let mut all = tx.query_all(query, &[&since], |row| runner(row, tx.now()))?;
    all.sort_by(|one, other| one.runner_name.cmp(&other.runner_name));
    Ok(all)
}

fn runner(row: &Row<'_>, now: i64) -> Outcome<Runner> {
    let runner: Runner = serde_json::from_str(&row.get::<String>(0)?)?;
    let since = |time: i64| u64::try_from(now.saturating_sub(time)).unwrap_or(0);
    let (age_ms, retry): (_, i64) = (since(row.get(1)?), row.get(4)?);
    let unhealthy = (row.get::<u32>(3)? > 0).then_some(Unhealthy {
        reason: row.get::<Option<String>>(5)?.unwrap_or_default(),
        trial_in_ms: u64::try_from(retry.saturating_sub(now)).unwrap_or(0),
    });
    let is_lost = age_ms > u64::try_from(RUNNER_TIMEOUT.as_millis()).unwrap_or(u64::MAX);
    Ok(Runner { age_ms, lost: is_lost, drained: row.get(2)?, unhealthy, ..runner })
}

/// The runner with this name, id, or prefix of its id.
fn find(all: Vec<Runner>, text: &str) -> Outcome<Runner> {
    let is_prefix = |id: &Uuid| text.len() >= SHORTEST && id.to_string().starts_with(text);
    let mut found: Vec<_> = all.iter().filter(|one| one.runner_name == text).collect();
    if found.is_empty() {
        found = all.iter().filter(|one| is_prefix(&one.runner_id)).collect();
    }
    match found[..] {
        [] => Err(Refusal::NoRunner { name: text.to_owned() }.into()),
        [one] => Ok(one.clone()),
        _ => Err(Refusal::SeveralRunners { name: text.to_owned() }.into()),
    }
}

/// Removes runners that were last seen before a time, unless they are drained.
pub(crate) fn forget(tx: &Tx<'_>, before: i64) -> Outcome<usize> {
    let delete = "DELETE FROM runners WHERE seen <= ?1 AND present <= ?1 AND drained = 0";
    tx.execute(delete, &[&before])
}
