//! The thread `heartbeat`: says how this runner is, every 10 s and on each change, and at last that it
//! stops.

use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use guest_common::{Platform, Stop, pause_after};
use serde::Deserialize;
use serde_json::json;

use super::shared::Shared;
use crate::error::{Error, Result};
use crate::service::context::RunId;
use crate::service::source::Presence;

const BEAT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reply {
    cancelled_run_ids: Option<Vec<RunId>>,
}

impl Shared {
    /// The thread. `leave` ends its waits, and not its requests: the last heartbeat comes after it.
    pub(super) fn beat(&self, platform: &Platform, woken: &Receiver<()>, leave: &Stop) {
        let (mut sequence, mut told) = (0, None);
        loop {
            let _ = woken.recv_timeout(BEAT);
            let (presence, is_leaving) = {
                let heard = self.lock();
                (heard.presence.clone(), heard.is_leaving)
            };
            if is_leaving && told == presence {
                return;
            }
            let Some(presence) = presence else { continue };
            sequence += 1;
            let asked = Instant::now();
            match self.tell(platform, &presence, sequence) {
                Ok(cancelled) => self.put_down(None, cancelled, asked),
                Err(error) => {
                    log::warn!("a heartbeat was not heard; error={:?}", error.chain());
                    leave.wait_until(asked + pause_after(error.of_api(), Duration::ZERO));
                }
            }
            if is_leaving {
                return;
            }
            told = Some(presence);
            if !std::mem::replace(&mut self.lock().is_introduced, true) {
                let _ = self.wake_poll.try_send(());
            }
        }
    }

    fn tell(&self, platform: &Platform, presence: &Presence, sequence: u64) -> Result<Vec<RunId>> {
        let body = json!({
            "runnerId": self.runner.id,
            "runnerName": self.name,
            "group": self.group,
            "snapshotGeneration": self.runner.generation,
            "snapshotSequence": sequence,
            "totalVcpu": self.total.vcpus,
            "totalMemoryMb": self.total.memory_mib,
            "maxConcurrent": self.most,
            "allocatedVcpu": presence.taken.vcpus,
            "allocatedMemoryMb": presence.taken.memory_mib,
            "runningCount": presence.running,
            "admittableProfiles": presence.profiles,
            "heldSessionStates": presence.held,
            "mode": presence.mode,
        });
        let body = serde_json::to_vec(&body).map_err(|source| Error::Json { source })?;
        let reply: Reply = platform.attempt("/api/runners/heartbeat", &body)?;
        Ok(reply.cancelled_run_ids.unwrap_or_default())
    }
}
