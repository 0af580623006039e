//! The `events` thread: sends events to the platform in order, and retries each batch until the
//! platform acknowledges it.
//!
//! A batch that the platform rejects is bisected down to the one rejected event; only that event is
//! lost. A status that rejects the run itself (401, 403, 404) ends the delivery at once, which ends
//! the run: a delivery that ends before its spool is closed always reports a loss.
//!
//! The number of the last acknowledged event is on disk before the next batch is sent, so the runner
//! can read it even if this process is killed.

use std::fs::File;
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use base::error::chain;
use contract::guest::ACKNOWLEDGED;
use guest_common::{RunFolder, allocate};
use platform_client::{PlatformClient, PlatformCredentials, RequestCancellation, RetryPolicy};
use serde::Deserialize;

use crate::spool::{NumberedEvent, SpoolReader};
use crate::{Error, Result};

const PATH: &str = "/api/webhooks/agent/events";

/// The length of [`ACKNOWLEDGED`]: a number and a line feed.
const ROOM: u64 = 21;

/// Retries a batch until the run gives up.
const UNTIL_STOPPED: RetryPolicy = RetryPolicy {
    attempts: None,
    deadline: None,
    at_least: 1,
    first_wait: Duration::from_secs(1),
    longest_wait: Duration::from_secs(10),
};

/// Which events the platform has acknowledged.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// The last acknowledged event before which none is missing.
    pub(crate) last: Option<u64>,
    /// The events that are lost, and why the first of them is.
    pub(crate) lost: Vec<RangeInclusive<u64>>,
    pub(crate) reason: Option<String>,
}

/// Sends the events of one run.
pub(crate) struct Delivery {
    platform: PlatformClient,
    run_id: String,
    stop: RequestCancellation,
    acknowledged: File,
    so_far: Delivered,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EventsReply {
    #[serde(rename = "received")]
    _received: u64,
    #[serde(rename = "firstSequence")]
    _first: u64,
    #[serde(rename = "lastSequence")]
    _last: u64,
}

impl Delivery {
    /// `stop` ends the delivery. Events that are not acknowledged by then are lost.
    pub(crate) fn new(
        credentials: &PlatformCredentials,
        stop: &RequestCancellation,
        folder: &RunFolder,
    ) -> Result<Self> {
        let acknowledged = folder.create(ACKNOWLEDGED)?;
        allocate(&acknowledged, ROOM);
        Ok(Self {
            platform: PlatformClient::new(credentials, stop)?,
            run_id: credentials.client_session.clone(),
            stop: stop.clone(),
            acknowledged,
            so_far: Delivered::default(),
        })
    }

    /// Sends events until the spool is closed or the platform rejects the run.
    pub(crate) fn run(mut self, spool: &SpoolReader) -> Delivered {
        let mut refused: Option<String> = None;
        loop {
            let batch = match spool.take() {
                Ok(Some(batch)) => batch,
                Ok(None) => return self.so_far,
                Err(source) => {
                    let reason = chain(&Error::Spool { source });
                    return self.lose_the_rest(&reason);
                }
            };
            for part in batch.chunk_by(|one, other| one.1.is_empty() == other.1.is_empty()) {
                match &refused {
                    Some(reason) => self.lose_batch(part, reason),
                    None if part[0].1.is_empty() => self.lose_batch(part, "too long to be sent"),
                    None => refused = self.send(part).err(),
                }
            }
            // After `stop`, go on to find out which events are lost. A rejected run ends now.
            if let Some(reason) = refused.as_ref().filter(|_| !self.stop.is_cancelled()) {
                return self.lose_the_rest(reason);
            }
        }
    }

    /// Sends a batch. An error says why the platform will take no more events of this run.
    fn send(&mut self, batch: &[NumberedEvent]) -> std::result::Result<(), String> {
        let error = match self.send_whole(batch) {
            Ok(_) => {
                self.acknowledge(batch);
                return Ok(());
            }
            Err(error) => error,
        };
        if error.refuses_caller() {
            let reason = chain(&Error::Refused { source: error });
            self.lose_batch(batch, &reason);
            return Err(reason);
        }
        if error.status().is_none() || self.stop.is_cancelled() {
            let reason = chain(&error);
            self.lose_batch(batch, &reason);
            return Err(reason);
        }
        if batch.len() == 1 {
            self.lose_batch(batch, &chain(&error));
            return Ok(());
        }
        let (first, second) = batch.split_at(batch.len() / 2);
        if let Err(reason) = self.send(first) {
            self.lose_batch(second, &reason);
            return Err(reason);
        }
        self.send(second)
    }

    fn send_whole(&self, batch: &[NumberedEvent]) -> platform_client::Result<EventsReply> {
        let body = body(&self.run_id, batch);
        UNTIL_STOPPED.run(&self.stop, || self.platform.attempt(PATH, &body))
    }

    fn acknowledge(&mut self, batch: &[NumberedEvent]) {
        let Some((last, _)) = batch.last() else { return };
        // After a loss the number stays: later events have one missing before them.
        if !self.so_far.lost.is_empty() {
            return;
        }
        self.so_far.last = Some(*last);
        let text = format!("{last:020}\n");
        if let Err(error) = self.acknowledged.write_all_at(text.as_bytes(), 0) {
            log::warn!("cannot record the acknowledged event; last={last} error={error}");
        }
    }

    fn lose_batch(&mut self, batch: &[NumberedEvent], reason: &str) {
        if let (Some((first, _)), Some((last, _))) = (batch.first(), batch.last()) {
            self.lose(*first, *last, reason);
        }
    }

    /// Ends the delivery: all events that are neither acknowledged nor lost yet are lost.
    fn lose_the_rest(mut self, reason: &str) -> Delivered {
        let lost = self.so_far.lost.last().map(|range| *range.end());
        let next = self.so_far.last.max(lost).map_or(0, |last| last.saturating_add(1));
        self.lose(next, u64::MAX, reason);
        self.so_far
    }

    fn lose(&mut self, first: u64, last: u64, reason: &str) {
        self.so_far.reason.get_or_insert_with(|| reason.to_owned());
        match self.so_far.lost.last_mut() {
            Some(range) if *range.end() + 1 == first => *range = *range.start()..=last,
            _ => {
                log::error!("events are lost; first={first} last={last} error={reason}");
                self.so_far.lost.push(first..=last);
            }
        }
    }
}

impl Delivered {
    /// Which events are lost and why, if any.
    pub(crate) fn loss(&self) -> Option<Error> {
        let reason = self.reason.clone()?;
        let ranges = self.lost.iter().take(10).map(|range| match (range.start(), range.end()) {
            (first, &u64::MAX) => format!("{first} and all after it"),
            (first, last) if first == last => first.to_string(),
            (first, last) => format!("{first} to {last}"),
        });
        Some(Error::EventsLost { which: ranges.collect::<Vec<_>>().join(", "), reason })
    }
}

fn body(run_id: &str, batch: &[NumberedEvent]) -> Vec<u8> {
    let length: usize = batch.iter().map(|(_, json)| json.len() + 1).sum();
    let mut body = Vec::with_capacity(length + 100);
    body.extend_from_slice(b"{\"runId\":");
    body.extend_from_slice(serde_json::Value::from(run_id).to_string().as_bytes());
    body.extend_from_slice(b",\"events\":[");
    for (index, (_, json)) in batch.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(json);
    }
    body.extend_from_slice(b"]}");
    body
}

#[cfg(test)]
mod tests {
    use guest_test::FakePlatform;

    use super::*;
    use crate::spool::spool;
    use crate::waker::Waker;

    #[test]
    fn a_read_error_of_the_spool_ends_the_delivery_before_the_spool_is_closed() {
        let home = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(home.path(), "r").unwrap();
        let fake = FakePlatform::start();
        let credentials = PlatformCredentials {
            addresses: fake.server.url().into(),
            token: "t".into(),
            bypass: None,
            client_session: "r".into(),
        };
        let file = home.path().join("events");
        // Open for writing only.
        let (mut writer, reader) =
            spool(File::create(&file).unwrap(), &Waker::new().unwrap()).unwrap();
        let event =
            |number| format!("{{\"sequenceNumber\":{number},\"x\":\"{}\"}}", "x".repeat(100_000));
        (0..20).for_each(|number| writer.push((number, event(number).into_bytes())));
        let delivery = Delivery::new(&credentials, &RequestCancellation::new(), &folder).unwrap();
        let delivered = delivery.run(&reader);
        let loss = delivered.loss().unwrap().to_string();
        assert!(loss.contains("and all after it are lost: cannot use the spool file"), "{loss}");
        drop(writer);
    }
}
