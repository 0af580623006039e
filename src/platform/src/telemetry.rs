//! Telemetry of a job's guest and runner: logs, metrics, operations, network.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::attempt::Caller;
use crate::backend::{Backend, TELEMETRY_GRACE};
use crate::bounded::list;
use crate::clock::millis;
use crate::db::{ToValue, Tx};
use crate::event::{Page, charge, next_position};
use crate::json::rewrite;
use crate::key::Tag;
use crate::notifier::Topic;
use crate::{Error, Refusal, Result, RunId};

/// The most entries of one report.
const MOST: usize = 1000;

/// A report as received; the stored form is derived from it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TelemetryReport {
    #[serde(skip_serializing)]
    pub(crate) run_id: RunId,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_log: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Entries>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox_operations: Option<Entries>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_logs: Option<Entries>,
}

#[derive(Serialize, Deserialize)]
struct Entries(#[serde(deserialize_with = "list::<_, _, MOST>")] Vec<Box<RawValue>>);

/// The reply to a report.
#[derive(Serialize)]
pub(crate) struct TelemetryResponse {
    success: bool,
    id: String,
}

/// A stored report.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Telemetry {
    /// The position among all reports of the job, for `after`.
    pub position: i64,
    /// The attempt.
    pub attempt: u32,
    /// The time of arrival, in milliseconds since 1970.
    pub received_ms: i64,
    /// `systemLog`, `metrics`, `sandboxOperations`, `networkLogs`: those that the report has.
    pub content: Map<String, Value>,
}

impl Backend {
    /// Stores a report. It may arrive after the job's end.
    pub(crate) fn take_report(
        &self,
        token: &Tag,
        report: TelemetryReport,
    ) -> Result<TelemetryResponse> {
        let (token, run) = (*token, report.run_id);
        check(&report)?;
        let mask = self.secrets.mask(&run)?;
        let is_masked = mask.is_some();
        let body = serde_json::to_string(&report).map_err(|source| Error::BadRow { source })?;
        drop(report);
        // This also checks reports without secrets: stored JSON must be readable.
        let body = match mask {
            Some(mask) => mask.json(&body)?,
            None => rewrite(&body, &|_| None)?,
        };
        let most = self.config.largest_record;
        let position = self.db.write_once("store telemetry", move |tx| {
            let caller = Caller::authorize(tx, &token, &run)?;
            admit(tx, caller, is_masked)?;
            charge(tx, caller, body.len(), most)?;
            let position = next_position(tx, "telemetry", caller.job)?;
            let add = "INSERT INTO telemetry (job, position, attempt, received, body)
                       VALUES (?1, ?2, ?3, ?4, ?5)";
            let row: [&dyn ToValue; 5] =
                [&caller.job, &position, &caller.attempt, &tx.now(), &body];
            tx.execute(add, &row)?;
            Ok(position)
        })?;
        self.notifier.notify(Topic::Job(run));
        Ok(TelemetryResponse { success: true, id: position.to_string() })
    }

    /// The reports after a position. Waits up to `hold` if there are none.
    pub(crate) fn telemetry(
        &self,
        run: RunId,
        after: i64,
        hold: Duration,
    ) -> Result<Page<Telemetry>> {
        self.page("telemetry", run, (after, hold), move |tx, job, last| {
            let query = "SELECT position, attempt, received, body FROM telemetry
                         WHERE job = ?1 AND position > ?2 AND position <= ?3 ORDER BY position";
            tx.query_all(query, &[&job, &after, &last], |row| {
                Ok(Telemetry {
                    position: row.get(0)?,
                    attempt: row.get(1)?,
                    received_ms: row.get(2)?,
                    content: serde_json::from_str(&row.get::<String>(3)?)?,
                })
            })
        })
    }

    /// A report of a guest proves that it is alive.
    pub(crate) fn take_heartbeat(&self, token: &Tag, run: RunId) -> Result<()> {
        let token = *token;
        self.db.write_relaxed("record a guest's heartbeat", move |tx| {
            let caller = Caller::live(tx, &token, &run)?;
            caller.begin(tx)?;
            caller.touch(tx)
        })
    }
}

/// The limit is for all lists together.
fn check(report: &TelemetryReport) -> Result<(), Refusal> {
    let lists = [&report.metrics, &report.sandbox_operations, &report.network_logs];
    let entries: usize = lists.into_iter().flatten().map(|list| list.0.len()).sum();
    if entries > MOST {
        return Err(Refusal::TooLarge { limit: MOST as u64, unit: "entries" });
    }
    Ok(())
}

/// An attempt may report until [`TELEMETRY_GRACE`] after its end, while its secrets can be masked.
fn admit(tx: &Tx<'_>, caller: Caller, is_masked: bool) -> Result<(), Refusal> {
    let is_late = |ended: i64| tx.now() > ended.saturating_add(millis(TELEMETRY_GRACE));
    if caller.ended.is_some_and(is_late) {
        return Err(Refusal::Ended);
    }
    caller.check_masked(is_masked)
}
