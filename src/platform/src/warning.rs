//! Warnings for a job's user, also after a success: missing pieces of an artifact, a full disk.

use serde::Deserialize;

use crate::attempt::Caller;
use crate::backend::Backend;
use crate::db::{Outcome, Tx};
use crate::event::charge;
use crate::key::Tag;
use crate::notifier::Topic;
use crate::{Refusal, Result, RunId};

/// The maximum number of warnings of an attempt.
const MOST: usize = 100;

/// The maximum length of a warning in characters; longer ones are truncated.
const LONGEST: usize = 2000;

/// The warnings of an attempt. They replace earlier ones.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct WarningsRequest {
    run_id: RunId,
    warnings: Vec<String>,
}

impl Backend {
    /// Stores an attempt's warnings.
    pub(crate) fn take_warnings(&self, token: &Tag, request: WarningsRequest) -> Result<()> {
        let (token, run, mut warnings) = (*token, request.run_id, request.warnings);
        if warnings.len() > MOST {
            return Err(Refusal::TooLarge { limit: MOST as u64, unit: "warnings" }.into());
        }
        let mask = self.secrets.mask(&run)?;
        for text in &mut warnings {
            if let Some(mask) = &mask {
                mask.text(text);
            }
            *text = text.chars().take(LONGEST).collect();
        }
        let (is_masked, most) = (mask.is_some(), self.config.largest_record);
        self.db.write("store warnings", move |tx| {
            let caller = Caller::live(tx, &token, &run)?;
            caller.check_masked(is_masked)?;
            charge(tx, caller, warnings.iter().map(String::len).sum(), most)?;
            store(tx, caller, &warnings)
        })?;
        self.notifier.notify(Topic::Job(run));
        Ok(())
    }
}

fn store(tx: &Tx<'_>, caller: Caller, warnings: &[String]) -> Outcome<()> {
    let Caller { job, attempt, .. } = caller;
    tx.execute("DELETE FROM warnings WHERE job = ?1 AND attempt = ?2", &[&job, &attempt])?;
    let add = "INSERT INTO warnings (job, attempt, position, body) VALUES (?1, ?2, ?3, ?4)";
    for (position, text) in warnings.iter().enumerate() {
        tx.execute(add, &[&job, &attempt, &position, text])?;
    }
    Ok(())
}

/// The warnings of a run's latest attempt.
pub(crate) fn of_run(tx: &Tx<'_>, run: &RunId) -> Outcome<Vec<String>> {
    let query = "SELECT body FROM warnings JOIN jobs ON jobs.id = job
                 AND warnings.attempt = jobs.attempt WHERE run = ?1 ORDER BY position";
    tx.query_all(query, &[run], |row| row.get(0))
}
