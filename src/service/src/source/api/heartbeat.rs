//! The thread `heartbeat`: reports the runner's status to the platform every 10 s, on each change and on shutdown.

use std::time::{Duration, Instant};

use contract::RunId;
use crossbeam_channel::Receiver;
use platform_client::{PlatformClient, RequestCancellation, pause_after};
use serde::Deserialize;
use serde_json::json;

use super::shared::Shared;
use crate::error::{Error, Result};
use crate::source::RunnerStatus;

const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    cancelled_run_ids: Option<Vec<RunId>>,
}

impl Shared {
    /// The thread. `stop` ends its waits but not its requests, as the last heartbeat comes after it.
    pub(super) fn run_heartbeat(
        &self,
        platform: &PlatformClient,
        woken: &Receiver<()>,
        stop: &RequestCancellation,
    ) {
        let (mut sequence, mut last_reported) = (0, None);
        loop {
            let _ = woken.recv_timeout(INTERVAL);
            let (status, is_stopping) = {
                let state = self.lock();
                (state.status.clone(), state.is_stopping)
            };
            if is_stopping && last_reported == status {
                return;
            }
            let Some(status) = status else { continue };
            sequence += 1;
            let sent_at = Instant::now();
            match self.send_heartbeat(platform, &status, sequence) {
                Ok(cancelled) => self.push_update(None, cancelled, sent_at),
                Err(error) => {
                    log::warn!("a heartbeat failed; error={:?}", error.chain());
                    stop.wait_until(sent_at + pause_after(error.of_api(), Duration::ZERO));
                }
            }
            if is_stopping {
                return;
            }
            last_reported = Some(status);
            if !std::mem::replace(&mut self.lock().is_registered, true) {
                let _ = self.wake_poll.try_send(());
            }
        }
    }

    fn send_heartbeat(
        &self,
        platform: &PlatformClient,
        status: &RunnerStatus,
        sequence: u64,
    ) -> Result<Vec<RunId>> {
        let body = json!({
            "runnerId": self.runner.id,
            "runnerName": self.name,
            "group": self.group,
            "snapshotGeneration": self.runner.generation,
            "snapshotSequence": sequence,
            "totalVcpu": self.total.vcpus,
            "totalMemoryMb": self.total.memory_mib,
            "maxConcurrent": self.max_concurrent,
            "allocatedVcpu": status.allocated.vcpus,
            "allocatedMemoryMb": status.allocated.memory_mib,
            "runningCount": status.running,
            "admittableProfiles": status.profiles,
            "heldSessionStates": status.sessions,
            "mode": status.mode,
        });
        let body = serde_json::to_vec(&body).map_err(|source| Error::Json { source })?;
        let reply: Reply = platform.attempt("/api/runners/heartbeat", &body)?;
        Ok(reply.cancelled_run_ids.unwrap_or_default())
    }
}
