//! The call for what a sandbox uses.

use std::time::{SystemTime, UNIX_EPOCH};

use http_server::Response;
use serde::Serialize;

use super::context::{Call, json};
use super::refused::Refused;
use super::shown::time;
use crate::metrics::Sample;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    timestamp: String,
    timestamp_unix: u64,
    cpu_count: u32,
    cpu_used_pct: f64,
    mem_used: u64,
    mem_total: u64,
    mem_cache: u64,
    disk_used: u64,
    disk_total: u64,
}

/// `GET /sandboxes/{id}/metrics`: the samples of the last hour. A call takes one, if the sandbox runs.
pub(super) fn metrics(call: &mut Call<'_, '_>) -> Result<Response, Refused> {
    let (start, end) = (second(call, "start")?, second(call, "end")?);
    let sandbox = call.context.sandboxes.get(&call.caller, call.id())?;
    if let Some(running) = sandbox.running() {
        let now = call.context.sandboxes.wall();
        if let Err(error) = sandbox.metrics().take(&*running, now) {
            return Err(Refused::internal(&error));
        }
    }
    let cpu_count = sandbox.template().vcpus;
    let samples = sandbox.metrics().all().into_iter().map(|sample| shown(sample, cpu_count));
    let asked = samples.filter(|sample| {
        start.is_none_or(|start| sample.timestamp_unix >= start)
            && end.is_none_or(|end| sample.timestamp_unix <= end)
    });
    json(200, &asked.collect::<Vec<_>>())
}

fn shown(sample: Sample, cpu_count: u32) -> Shown {
    Shown {
        timestamp: time(sample.at),
        timestamp_unix: unix(sample.at),
        cpu_count,
        cpu_used_pct: sample.cpu_percent,
        mem_used: sample.memory_used,
        mem_total: sample.memory_total,
        mem_cache: sample.memory_cache,
        disk_used: sample.disk_used,
        disk_total: sample.disk_total,
    }
}

fn unix(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A parameter in seconds since 1970.
fn second(call: &Call<'_, '_>, name: &str) -> Result<Option<u64>, Refused> {
    let text = call.query(name)?;
    let second = text.map(|text| {
        text.parse().map_err(|_| {
            Refused::bad(format!("`{name}` is `{text}`, not a number of seconds since 1970"))
        })
    });
    second.transpose()
}
