//! The embedded platform as a source: no HTTP between it and the main loop, no thread, and no time
//! lost. What jobs' guests and this runner tell of a job goes over HTTP all the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use platform::{Platform, Wanted};
use sandbox::Service;

use super::{Access, Cancelled, Claim, Demand, Found, Kind, Left, News, Offer, Presence, Source};
use crate::error::{Error, Result};
use crate::service::config::Local as Config;
use crate::service::context::RunId;
use crate::service::journal::{Journal, Record, State};

/// The gateway's address, in every VM the same.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 241, 1);

/// The embedded platform.
pub(crate) struct Local {
    source: platform::Source,
    access: Access,
    platform: Mutex<Option<Platform>>,
}

impl Local {
    /// Starts the platform of a state folder.
    pub(crate) fn start(state_dir: &Path, config: &Config) -> Result<Self> {
        let guest_url = format!("http://{GATEWAY}:{}", config.guest_port);
        let mut settings = platform::Config::new(state_dir);
        // The first is for guests and us alone.
        settings.listen = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
        settings.listen.extend(&config.listen);
        settings.guest_url = Some(guest_url.clone());
        let platform = Platform::start(settings)?;
        let source = platform.source()?;
        let first = platform.addresses().first().copied();
        let host = first.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, config.guest_port)));
        let service = Some(Service { port: config.guest_port, host });
        let access = Access {
            guest_url,
            url: format!("http://{host}"),
            service,
            bypass: None,
            reachable: Vec::new(),
        };
        Ok(Self { source, access, platform: Mutex::new(Some(platform)) })
    }
}

impl Source for Local {
    fn kind(&self) -> Kind {
        Kind::Local
    }

    fn rings(&self) -> &Receiver<()> {
        self.source.rings()
    }

    fn look(&self, demand: &Demand) -> Result<News> {
        let asked = Instant::now();
        let cancelled = self.source.cancelled()?.into_iter().filter_map(ours);
        let cancelled = cancelled.map(|run| Cancelled { run, asked }).collect();
        if demand.profiles.is_empty() {
            return Ok(News { offer: None, cancelled });
        }
        let wanted = Wanted {
            profiles: demand.profiles.clone(),
            excluded: demand.excluded.iter().copied().filter_map(theirs).collect(),
        };
        let offer = self.source.next(&wanted, Instant::now())?;
        let offer = offer.and_then(|offer| {
            let (run, profile, reuse_key) =
                (ours(offer.run_id)?, offer.profile, Some(offer.reuse_key));
            Some(Offer { run, profile, reuse_key, found: Found::Pushed, at: asked })
        });
        Ok(News { offer, cancelled })
    }

    fn claim(&self, offer: &Offer, _journal: &Journal) -> Result<Option<Claim>> {
        let Some(id) = theirs(offer.run) else { return Ok(None) };
        let Some(claimed) = self.source.claim(id)? else { return Ok(None) };
        let timeout = claimed.timeout_ms.map(Duration::from_millis);
        Ok(Some(Claim::of(claimed.context, Some(claimed.attempt), timeout)))
    }

    /// It answers always.
    fn offer_again(&self, _run: RunId) -> bool {
        false
    }

    /// It is in this process, and knows.
    fn tell(&self, _presence: Presence) {}

    fn access(&self) -> &Access {
        &self.access
    }

    /// A job without an outcome goes back into the queue, whether or not its claim was written down.
    fn recover(&self, journal: &Journal) -> Result<Left> {
        let records = journal.read()?.into_iter().filter(|record| record.source == self.kind());
        let is_ended = |record: &Record| matches!(record.state, State::Ended { .. });
        let (ended, others): (Vec<_>, Vec<_>) = records.partition(is_ended);
        for orphan in self.source.orphans()? {
            let is_known = |record: &Record| {
                Some(record.run) == ours(orphan.run_id) && record.attempt == Some(orphan.attempt)
            };
            if !ended.iter().any(is_known) {
                self.source.give_back(orphan.run_id, orphan.attempt)?;
            }
        }
        others.iter().for_each(|record| journal.remove(record.run));
        Ok(Left { ended, unanswered: Vec::new() })
    }

    fn stop(&self) {
        let platform = self.platform.lock().map(|mut platform| platform.take());
        let stopped = platform.ok().flatten().map_or(Ok(()), Platform::stop);
        if let Err(error) = stopped {
            let error = Error::Platform { source: error };
            log::error!("the embedded platform did not stop well; error={}", error.chain());
        }
    }
}

fn ours(run: platform::RunId) -> Option<RunId> {
    RunId::parse(&run.to_string())
}

fn theirs(run: RunId) -> Option<platform::RunId> {
    run.to_string().parse().ok()
}
