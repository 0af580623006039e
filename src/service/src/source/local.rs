//! The embedded platform as a source. Jobs are discovered and claimed by function calls, without HTTP and without a
//! thread. Guests and the reporter still use HTTP.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use base::sync::Mutex;
use contract::RunId;
use contract::guest::GATEWAY;
use crossbeam_channel::Receiver;
use platform::{Platform, Wanted};
use sandbox::Service;

use super::{
    CancelRequest, Claim, Demand, DiscoveredJob, Discovery, PlatformAccess, RecoveredJobs,
    RunnerStatus, Source, SourceKind, SourceUpdate,
};
use crate::config::Local as Config;
use crate::error::{Error, Result};
use crate::journal::{ClaimRecord, ClaimState, Journal};

/// The embedded platform.
pub(crate) struct Local {
    source: platform::Source,
    group: String,
    access: PlatformAccess,
    platform: Mutex<Option<Platform>>,
}

impl Local {
    /// Starts the platform of a state folder.
    pub(crate) fn start(state_dir: &Path, config: &Config, group: &str) -> Result<Self> {
        let guest_url = format!("http://{GATEWAY}:{}", config.guest_port);
        let mut settings = platform::Config::new(state_dir);
        // The first address is for guests and this process only.
        settings.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        settings.listen.extend(&config.listen);
        settings.guest_url = Some(guest_url.clone());
        let platform = Platform::start(settings)?;
        let source = platform.source()?;
        let first = platform.addresses().first().copied();
        let host = first.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, config.guest_port)));
        let service = Some(Service { port: config.guest_port, host });
        let access = PlatformAccess {
            guest_urls: vec![guest_url],
            addresses: format!("http://{host}").into(),
            authorities: None,
            service,
            bypass: None,
            reachable: Vec::new(),
        };
        Ok(Self { source, group: group.to_owned(), access, platform: Mutex::new(Some(platform)) })
    }
}

impl Source for Local {
    fn kind(&self) -> SourceKind {
        SourceKind::Local
    }

    fn notifications(&self) -> &Receiver<()> {
        self.source.notifications()
    }

    fn next_update(&self, demand: &Demand) -> Result<SourceUpdate> {
        let requested_at = Instant::now();
        let cancelled = self.source.cancelled()?.into_iter();
        let cancelled = cancelled.map(|run| CancelRequest { run, requested_at }).collect();
        if demand.profiles.is_empty() {
            return Ok(SourceUpdate { offer: None, cancelled });
        }
        let wanted = Wanted {
            group: Some(self.group.clone()),
            profiles: demand.profiles.clone(),
            excluded: demand.excluded.clone(),
        };
        let offer = self.source.next(&wanted, Instant::now())?;
        let offer = offer.map(|offer| DiscoveredJob::of(offer, Discovery::Pushed));
        Ok(SourceUpdate { offer, cancelled })
    }

    fn claim(&self, offer: &DiscoveredJob, _journal: &Journal) -> Result<Option<Claim>> {
        let Some(claimed) = self.source.claim(offer.run)? else { return Ok(None) };
        let timeout = claimed.timeout_ms.map(Duration::from_millis);
        Ok(Some(Claim::of(claimed.context, Some(claimed.attempt), timeout)))
    }

    /// A claim always gets an answer.
    fn reoffer(&self, _run: RunId) -> bool {
        false
    }

    /// The embedded platform needs no heartbeats.
    fn report_status(&self, _status: RunnerStatus) {}

    fn access(&self) -> &PlatformAccess {
        &self.access
    }

    /// Returns jobs without an outcome to the queue, whether or not the journal has their claim.
    fn recover(&self, journal: &Journal) -> Result<RecoveredJobs> {
        let records = journal.read()?.into_iter().filter(|record| record.source == self.kind());
        let is_ended = |record: &ClaimRecord| matches!(record.state, ClaimState::Ended { .. });
        let (ended, others): (Vec<_>, Vec<_>) = records.partition(is_ended);
        for orphan in self.source.orphans()? {
            let is_known = |record: &ClaimRecord| {
                record.run == orphan.run_id && record.attempt == Some(orphan.attempt)
            };
            if !ended.iter().any(is_known) {
                self.source.give_back(orphan.run_id, orphan.attempt)?;
            }
        }
        others.iter().for_each(|record| journal.remove(record.run));
        Ok(RecoveredJobs { ended, unanswered: Vec::new() })
    }

    fn stop(&self) {
        let platform = self.platform.lock().take();
        let stopped = platform.map_or(Ok(()), Platform::stop);
        if let Err(error) = stopped {
            let error = Error::Platform { source: error };
            log::error!("cannot stop the embedded platform; error={}", error.chain());
        }
    }
}
