//! Where jobs come from. Sources differ in how they learn of jobs; what is done with a job is the
//! same for all, and so is how its end is told: over HTTP, with the job's own token.

#[cfg(feature = "platform")]
pub(crate) mod local;

pub(crate) mod api;

use std::borrow::Cow;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::admission::Amount;
use super::context::{Context, RunId};
use super::endpoint::Endpoint;
use super::journal::{Journal, Record};
use super::pool::HeldSession;
use crate::error::{Error, Result};

/// A source of jobs.
///
/// INVARIANT: a ring is only a hint. What is true comes from [`Source::look`], so rings may melt into
/// one, and a push that was lost delays a job but loses none.
pub(crate) trait Source: Send + Sync {
    /// Which kind, as the journal's records name it.
    fn kind(&self) -> Kind;

    /// Rings when there may be something to look at; disconnects when there never will be again.
    fn rings(&self) -> &Receiver<()>;

    /// Says what there is room for, and hears what is to be done. It does not wait.
    fn look(&self, demand: &Demand) -> Result<News>;

    /// Claims a job, which may take a while; none if somebody else has it. After an error nobody
    /// knows whose it is, until it is offered again ([`Source::offer_again`]) and claimed as the same.
    fn claim(&self, offer: &Offer, journal: &Journal) -> Result<Option<Claim>>;

    /// Says how this runner is. It does not wait.
    fn tell(&self, presence: Presence);

    /// How the platform is reached.
    fn access(&self) -> &Access;

    /// Offers a job once more whose claim had no answer; false if its claim has one now.
    fn offer_again(&self, run: RunId) -> bool;

    /// Sees to the jobs that an earlier process claimed. Records that are done with are removed.
    fn recover(&self, journal: &Journal) -> Result<Left>;

    /// Gives up claims under way; the next start sees to what became of them.
    fn give_up_claims(&self) {}

    /// Ends its threads; nothing is asked of it afterwards.
    fn stop(&self);
}

/// The kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Local,
    Api,
}

/// What there is room for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    /// None means that no job is wanted.
    pub(crate) profiles: Vec<String>,
    /// Jobs that are not wanted now.
    pub(crate) excluded: Vec<RunId>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct News {
    pub(crate) offer: Option<Offer>,
    /// Jobs of ours that are to be cancelled; they may be named again.
    pub(crate) cancelled: Vec<Cancelled>,
}

/// A job that is to be cancelled, if it was claimed before that was asked for: another claim of the
/// same job is not meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cancelled {
    pub(crate) run: RunId,
    /// When the platform was asked.
    pub(crate) asked: Instant,
}

/// What an earlier process left of its jobs.
#[derive(Default)]
pub(crate) struct Left {
    /// Records that have ended, to be reported.
    pub(crate) ended: Vec<Record>,
    /// Claims without an answer: their jobs are offered again.
    pub(crate) unanswered: Vec<RunId>,
}

/// A job that may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) run: RunId,
    pub(crate) profile: Option<String>,
    /// By which its session's VM is found again, if the source says so already.
    pub(crate) reuse_key: Option<String>,
    pub(crate) found: Found,
    /// When.
    pub(crate) at: Instant,
}

/// How a job was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Polled,
    Pushed,
}

/// A job that was claimed.
#[derive(Debug)]
pub(crate) struct Claim {
    /// How often it was handed out, if the source says so.
    pub(crate) attempt: Option<u32>,
    /// How long it may run, if the source says so.
    pub(crate) timeout: Option<Duration>,
    /// The job's own.
    pub(crate) token: String,
    /// What the job is. If that makes no sense, the claim still has to come to its end.
    pub(crate) context: Result<Context>,
}

impl Claim {
    /// What a platform says of a job that was claimed.
    pub(crate) fn of(context: Value, attempt: Option<u32>, timeout: Option<Duration>) -> Self {
        let token = token_of(&context).unwrap_or_default().to_owned();
        let context = serde_json::from_value(context);
        let context = context.map_err(|source| Error::Context { source });
        Self { attempt, timeout, token, context }
    }
}

/// The token in what a platform says of a job that was claimed.
fn token_of(context: &Value) -> Option<&str> {
    context["sandboxToken"].as_str().filter(|token| !token.is_empty())
}

/// How this runner is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) mode: Mode,
    pub(crate) taken: Amount,
    pub(crate) running: usize,
    pub(crate) profiles: Vec<String>,
    /// Sessions that have a VM here.
    pub(crate) held: Vec<HeldSession>,
}

impl Presence {
    /// A runner that has ended its last job, and ends.
    pub(crate) fn stopping() -> Self {
        Self {
            mode: Mode::Stopping,
            taken: Amount::default(),
            running: 0,
            profiles: Vec::new(),
            held: Vec::new(),
        }
    }
}

/// What a runner does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    Running,
    Draining,
    Stopping,
}

/// How the platform is reached.
#[derive(Debug, Clone)]
pub(crate) struct Access {
    /// By guests; URLs in contexts may begin with it.
    pub(crate) guest_url: String,
    /// By this process.
    pub(crate) url: String,
    /// The port of the gateway behind which it is, if guests reach it by one.
    pub(crate) service: Option<sandbox::Service>,
    /// What opens a deployment that is protected.
    pub(crate) bypass: Option<String>,
    /// What guests reach besides it, whatever their policy.
    pub(crate) reachable: Vec<Endpoint>,
}

impl Access {
    /// A URL of a context as this process uses it.
    pub(crate) fn seen_from_here<'a>(&self, url: &'a str) -> Cow<'a, str> {
        match url.strip_prefix(self.guest_url.as_str()) {
            Some(rest) if rest.starts_with('/') => format!("{}{rest}", self.url).into(),
            _ => url.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_platforms_own_urls_are_reached_from_here_otherwise() {
        let access = Access {
            guest_url: "http://192.168.241.1:8700".into(),
            url: "http://127.0.0.1:4000".into(),
            service: None,
            bypass: None,
            reachable: Vec::new(),
        };
        let there = |url| access.seen_from_here(url).into_owned();
        assert_eq!(there("http://192.168.241.1:8700/blobs/1"), "http://127.0.0.1:4000/blobs/1");
        assert_eq!(there("http://192.168.241.1:87001/x"), "http://192.168.241.1:87001/x");
        assert_eq!(there("https://storage.example/x"), "https://storage.example/x");
    }
}
