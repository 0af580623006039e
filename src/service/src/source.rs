//! Sources of jobs. Sources differ only in how they discover and claim jobs. All jobs run in the same way, and
//! their completions are sent over HTTP with the job's own token.

#[cfg(feature = "platform")]
pub(crate) mod local;

pub(crate) mod api;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use platform_client::PlatformAddresses;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::admission::Resources;
use super::context::ExecutionContext;
use super::endpoint::Endpoint;
use super::journal::{ClaimRecord, Journal};
use super::reuse::HeldSession;
use crate::error::{Error, Result};
use contract::{Offer, RunId};

/// A source of jobs.
///
/// INVARIANT: a notification is only a hint. [`Source::next_update`] has the facts, so notifications may coalesce, and
/// a lost push delays a job but loses none.
pub(crate) trait Source: Send + Sync {
    /// The kind that the journal's records name.
    fn kind(&self) -> SourceKind;

    /// Receives a message when there may be an update, and disconnects when the source has ended.
    fn notifications(&self) -> &Receiver<()>;

    /// Publishes the demand, and returns an offer and cancellations. Does not block.
    fn next_update(&self, demand: &Demand) -> Result<SourceUpdate>;

    /// Claims a job; `None` if another runner has it. Blocks. After an error the owner is unknown, until the job is
    /// offered again ([`Source::reoffer`]) and claimed with the same request ID.
    fn claim(&self, offer: &DiscoveredJob, journal: &Journal) -> Result<Option<Claim>>;

    /// Publishes the runner's status. Does not block.
    fn report_status(&self, status: RunnerStatus);

    /// The platform's addresses.
    fn access(&self) -> &PlatformAccess;

    /// Offers a job again whose claim got no answer. Returns false if the claim has an answer now.
    fn reoffer(&self, run: RunId) -> bool;

    /// Recovers the jobs that an earlier process claimed, and removes obsolete records.
    fn recover(&self, journal: &Journal) -> Result<RecoveredJobs>;

    /// Aborts pending claims. The next start recovers them.
    fn abort_claims(&self) {}

    /// Ends the source's threads. The source must not be used afterwards.
    fn stop(&self);
}

/// The kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceKind {
    Local,
    Api,
}

/// The jobs that the runner has capacity for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// The admittable profiles. If empty, no job is requested.
    pub(crate) profiles: Vec<String>,
    /// Jobs that must not be offered now.
    pub(crate) excluded: Vec<RunId>,
}

/// An offer and cancellations.
#[derive(Debug, Default)]
pub(crate) struct SourceUpdate {
    pub(crate) offer: Option<DiscoveredJob>,
    /// Jobs of this runner to cancel. One may be repeated.
    pub(crate) cancelled: Vec<CancelRequest>,
}

/// A request to cancel a job. It does not apply to a claim after `requested_at`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CancelRequest {
    pub(crate) run: RunId,
    /// When the platform was asked for cancellations, or pushed one.
    pub(crate) requested_at: Instant,
}

/// The jobs of an earlier process.
#[derive(Default)]
pub(crate) struct RecoveredJobs {
    /// Records with outcomes to report.
    pub(crate) ended: Vec<ClaimRecord>,
    /// Jobs whose claims got no answer, to be offered again.
    pub(crate) unanswered: Vec<RunId>,
}

/// A job that can be claimed, as the platform offered or pushed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiscoveredJob {
    pub(crate) run: RunId,
    pub(crate) profile: Option<String>,
    /// The `reuseKey` of its session, if the source knows it before the claim.
    pub(crate) reuse_key: Option<String>,
    pub(crate) discovery: Discovery,
    pub(crate) discovered_at: Instant,
}

impl DiscoveredJob {
    /// A job that the platform offered just now.
    pub(crate) fn of(offer: Offer, discovery: Discovery) -> Self {
        let Offer { run_id: run, profile, reuse_key, .. } = offer;
        Self { run, profile, reuse_key, discovery, discovered_at: Instant::now() }
    }
}

/// How a job was discovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Discovery {
    Polled,
    Pushed,
}

/// A claimed job.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The number of the attempt, if the source counts attempts.
    pub(crate) attempt: Option<u32>,
    /// The job's time limit, if the source sets one.
    pub(crate) timeout: Option<Duration>,
    /// The job's token.
    pub(crate) token: String,
    /// The job's description. The claim needs a completion even if this is an error.
    pub(crate) context: Result<ExecutionContext>,
}

impl Claim {
    /// Parses the platform's description of a claimed job.
    pub(crate) fn of(context: Value, attempt: Option<u32>, timeout: Option<Duration>) -> Self {
        let token = token_of(&context).unwrap_or_default().to_owned();
        let context = serde_json::from_value(context);
        let context = context.map_err(|source| Error::Context { source });
        Self { attempt, timeout, token, context }
    }
}

/// The token in a platform's description of a claimed job.
fn token_of(context: &Value) -> Option<&str> {
    context["sandboxToken"].as_str().filter(|token| !token.is_empty())
}

/// The runner's status, as heartbeats report it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RunnerStatus {
    pub(crate) mode: Mode,
    pub(crate) allocated: Resources,
    pub(crate) running: usize,
    pub(crate) profiles: Vec<String>,
    /// The sessions with a parked VM.
    pub(crate) sessions: Vec<HeldSession>,
}

impl RunnerStatus {
    /// The status of a runner whose last job has ended.
    pub(crate) fn stopping() -> Self {
        Self {
            mode: Mode::Stopping,
            allocated: Resources::default(),
            running: 0,
            profiles: Vec::new(),
            sessions: Vec::new(),
        }
    }
}

/// The runner's mode, as heartbeats report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Running,
    Draining,
    Stopping,
}

/// The addresses of the platform.
#[derive(Clone)]
pub(crate) struct PlatformAccess {
    /// The URLs for guests, which URLs in contexts may begin with.
    pub(crate) guest_urls: Vec<String>,
    /// The URLs for this process, in the same order.
    pub(crate) addresses: PlatformAddresses,
    /// The certificates, as PEM, of authorities that the platform's own may be issued by, besides the host's.
    pub(crate) authorities: Option<String>,
    /// The port of the guests' gateway that leads to the platform, if it is embedded.
    pub(crate) service: Option<sandbox::Service>,
    /// The bypass secret of a protected deployment.
    pub(crate) bypass: Option<String>,
    /// Further endpoints that guests may reach regardless of their policy.
    pub(crate) reachable: Vec<Endpoint>,
}

impl PlatformAccess {
    /// Translates a URL of a context for this process.
    pub(crate) fn host_url<'a>(&self, url: &'a str) -> Cow<'a, str> {
        let known = self.guest_urls.iter().zip(self.addresses.urls());
        let translated = known.filter_map(|(guest, own)| {
            let rest = url.strip_prefix(guest.as_str()).filter(|rest| rest.starts_with('/'))?;
            Some(format!("{own}{rest}"))
        });
        translated.into_iter().next().map_or(url.into(), Cow::from)
    }

    /// The access of a test to a platform at one URL for guests and one for the host.
    #[cfg(test)]
    pub(crate) fn at(guest_url: &str, url: &str) -> Self {
        Self {
            guest_urls: vec![guest_url.to_owned()],
            addresses: url.into(),
            authorities: None,
            service: None,
            bypass: None,
            reachable: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_platforms_own_urls_are_translated_for_the_host() {
        let access = PlatformAccess::at("http://192.168.241.1:8700", "http://127.0.0.1:4000");
        let translated = |url| access.host_url(url).into_owned();
        assert_eq!(
            translated("http://192.168.241.1:8700/blobs/1"),
            "http://127.0.0.1:4000/blobs/1"
        );
        assert_eq!(translated("http://192.168.241.1:87001/x"), "http://192.168.241.1:87001/x");
        assert_eq!(translated("https://storage.example/x"), "https://storage.example/x");
    }
}
