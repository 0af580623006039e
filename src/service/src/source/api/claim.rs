//! Claims of jobs at a remote platform. A lost answer neither loses a job nor runs it twice.
//!
//! ```text
//!  the request's ID is in the journal ──▶ sent ──▶ granted ──▶ the job's thread
//!                                          │ ▲ retried with the same ID, also by the next process
//!                                no answer ▼ │
//!                                     unanswered ──▶ 404, 409, 403, … : the record is removed
//! ```
//!
//! A job whose claim got no answer has not run. It is offered again and claimed with the same ID.
//!
//! INVARIANT: at most one thread requests a job at any time, always with the ID in the journal.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use base::date::epoch_ms;
use base::sync::{Mutex, MutexGuard};
use contract::{Completion, RUNNER_DIED, RunId};
use platform_client::{PlatformClient, RequestCancellation, RetryPolicy};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::journal::{ClaimRecord, ClaimState, Journal};
use crate::source::{Claim, DiscoveredJob, Discovery, RecoveredJobs, SourceKind, token_of};

/// The claims at one platform.
pub(super) struct Claims {
    platform: PlatformClient,
    stop: RequestCancellation,
    /// How long a claim is retried in its job's thread.
    timeout: Duration,
    unanswered: Mutex<HashMap<RunId, UnansweredClaim>>,
}

/// A claim without an answer.
struct UnansweredClaim {
    /// The request's ID; `None` while a thread sends the request.
    request: Option<String>,
    /// The profile of the offer.
    profile: Option<String>,
}

/// The description of a job whose claim was granted.
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct Granted(Value);

impl TryFrom<Value> for Granted {
    type Error = &'static str;

    fn try_from(context: Value) -> std::result::Result<Self, Self::Error> {
        token_of(&context).ok_or("it has no sandboxToken")?;
        Ok(Self(context))
    }
}

/// The answer to a claim.
enum ClaimAnswer {
    Granted(Granted),
    /// Another runner has the job, or this runner may not claim it.
    Denied(platform_client::Error),
    None(platform_client::Error),
}

impl Claims {
    pub(super) fn new(
        platform: PlatformClient,
        stop: RequestCancellation,
        timeout: Duration,
    ) -> Self {
        Self { platform, stop, timeout, unanswered: Mutex::default() }
    }

    /// See [`Source::claim`](crate::Source::claim).
    pub(super) fn claim(&self, offer: &DiscoveredJob, journal: &Journal) -> Result<Option<Claim>> {
        let run = offer.run;
        let known = match self.lock().entry(run) {
            Entry::Occupied(entry) => match entry.into_mut().request.take() {
                Some(request) => Some(request),
                // Another thread sends the request just now.
                None => return Ok(None),
            },
            Entry::Vacant(entry) => {
                entry.insert(UnansweredClaim { request: None, profile: offer.profile.clone() });
                None
            }
        };
        let request = match known.map_or_else(|| record_request(offer, journal), Ok) {
            Ok(request) => request,
            Err(error) => {
                self.lock().remove(&run);
                return Err(error);
            }
        };
        let retry = RetryPolicy::until(Instant::now() + self.timeout);
        match self.send(offer, &request, &retry) {
            ClaimAnswer::Granted(Granted(context)) => {
                self.lock().remove(&run);
                Ok(Some(Claim::of(context, None, None)))
            }
            ClaimAnswer::Denied(error) => {
                self.forget(run, journal);
                match error.status() {
                    Some(404 | 409) => Ok(None),
                    _ => Err(Error::Api { source: error }),
                }
            }
            ClaimAnswer::None(source) => {
                self.put_back(run, request);
                Err(Error::Api { source })
            }
        }
    }

    /// The offer of a job whose claim has no answer. The outer `None`: the claim has an answer. The inner `None`: a
    /// thread sends the request just now.
    pub(super) fn unanswered_offer(&self, run: RunId) -> Option<Option<DiscoveredJob>> {
        let unanswered = self.lock();
        let unanswered = unanswered.get(&run)?;
        let (profile, discovery) = (unanswered.profile.clone(), Discovery::Polled);
        let offer = DiscoveredJob {
            run,
            profile,
            reuse_key: None,
            discovery,
            discovered_at: Instant::now(),
        };
        Some(unanswered.request.as_ref().map(|_| offer))
    }

    /// A claimed job whose runner died has failed, and only this runner can report it. A job whose claim got no answer
    /// has not started.
    pub(super) fn recover(&self, journal: &Journal) -> Result<RecoveredJobs> {
        let mut recovered = RecoveredJobs::default();
        for record in journal.read()?.into_iter().filter(|one| one.source == SourceKind::Api) {
            let run = record.run;
            match record.state {
                ClaimState::Ended { .. } => recovered.ended.push(record),
                ClaimState::Claimed { token } => {
                    let record = ended(run, token);
                    journal.write(&record)?;
                    recovered.ended.push(record);
                }
                ClaimState::Claiming { request, profile } => {
                    self.lock().insert(run, UnansweredClaim { request: Some(request), profile });
                    recovered.unanswered.push(run);
                }
            }
        }
        Ok(recovered)
    }

    fn send(&self, offer: &DiscoveredJob, request: &str, retry: &RetryPolicy) -> ClaimAnswer {
        let path = format!("/api/runners/jobs/{}/claim", offer.run);
        let source = match offer.discovery {
            Discovery::Polled => "poll",
            Discovery::Pushed => "ably",
        };
        let waited = u64::try_from(offer.discovered_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let telemetry = json!({"discoverySource": source, "jobDiscoveredToClaimRequestMs": waited});
        let body = json!({"capabilities": [], "telemetry": telemetry}).to_string();
        let attempt = || self.platform.attempt_as(request, &path, body.as_bytes());
        match retry.run(&self.stop, attempt) {
            Ok(granted) => ClaimAnswer::Granted(granted),
            // A 401 concerns the runner's token, not the job.
            Err(error) if error.status().is_some_and(|status| status != 401) => {
                if error.is_retriable() {
                    ClaimAnswer::None(error)
                } else {
                    ClaimAnswer::Denied(error)
                }
            }
            Err(error) => ClaimAnswer::None(error),
        }
    }

    fn put_back(&self, run: RunId, request: String) {
        if let Some(unanswered) = self.lock().get_mut(&run) {
            unanswered.request = Some(request);
        }
    }

    /// Forgets a denied claim.
    fn forget(&self, run: RunId, journal: &Journal) {
        // In this order: until the entry is removed, no other thread writes a record of this run.
        journal.remove(run);
        self.lock().remove(&run);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, UnansweredClaim>> {
        self.unanswered.lock()
    }
}

/// Writes a new request ID to the journal.
fn record_request(offer: &DiscoveredJob, journal: &Journal) -> Result<String> {
    let request = platform_client::random_request_id();
    let state = ClaimState::Claiming { request: request.clone(), profile: offer.profile.clone() };
    journal.write(&ClaimRecord {
        run: offer.run,
        attempt: None,
        source: SourceKind::Api,
        state,
    })?;
    Ok(request)
}

fn ended(run: RunId, token: String) -> ClaimRecord {
    let completion = Completion::failed(RUNNER_DIED.to_owned());
    let state = ClaimState::Ended { token, at_ms: epoch_ms(), completion };
    ClaimRecord { run, attempt: None, source: SourceKind::Api, state }
}

#[cfg(test)]
mod tests {
    use guest_test::{Reply, Server};
    use platform_client::{ClientType, PlatformCredentials, RequestLimits};

    use super::*;
    use crate::journal::tests::run;

    /// A platform with scripted answers, of which the last one repeats.
    struct Fixture {
        state: tempfile::TempDir,
        journal: Journal,
        server: Server,
    }

    impl Fixture {
        fn new(replies: Vec<Reply>) -> Self {
            let replies = Mutex::new(replies);
            let server = Server::start(move |_| {
                let mut replies = replies.lock();
                if replies.len() > 1 { replies.remove(0) } else { replies[0].clone() }
            });
            let state = tempfile::tempdir().unwrap();
            let journal = Journal::open(state.path()).unwrap();
            Self { state, journal, server }
        }

        /// Claims as made by a new process, without retries.
        fn claims(&self) -> Claims {
            let token = "t".to_owned();
            let credentials = PlatformCredentials {
                addresses: self.server.url().into(),
                token,
                bypass: None,
                client_session: "r".into(),
            };
            let time = Duration::from_secs(30);
            let limits = RequestLimits { whole: Some(time), silence: time, redirects: 0 };
            let stop = RequestCancellation::new();
            let platform =
                PlatformClient::of(ClientType::Runner, &credentials, limits, &stop).unwrap();
            Claims::new(platform, stop, Duration::ZERO)
        }

        fn states(&self) -> Vec<&'static str> {
            let records = Journal::open(self.state.path()).unwrap().read().unwrap();
            let state = |record: ClaimRecord| match record.state {
                ClaimState::Claiming { .. } => "claiming",
                ClaimState::Claimed { .. } => "claimed",
                ClaimState::Ended { .. } => "ended",
            };
            records.into_iter().map(state).collect()
        }

        fn ids(&self) -> Vec<String> {
            let requests = self.server.requests_to(&format!("/api/runners/jobs/{}/claim", run()));
            let id = |one: &guest_test::Request| {
                one.header("x-client-request-id").unwrap_or_default().to_owned()
            };
            requests.iter().map(id).collect()
        }
    }

    fn offer() -> DiscoveredJob {
        DiscoveredJob {
            run: run(),
            profile: None,
            reuse_key: None,
            discovery: Discovery::Polled,
            discovered_at: Instant::now(),
        }
    }

    fn granted() -> Reply {
        Reply::json(&json!({"runId": run(), "sandboxToken": "job's"}))
    }

    #[test]
    fn a_claim_without_an_answer_is_retried_with_the_same_id() {
        let fixture = Fixture::new(vec![Reply::dropped(), granted()]);
        let claims = fixture.claims();
        claims.claim(&offer(), &fixture.journal).unwrap_err();
        assert_eq!(fixture.states(), ["claiming"]);

        let claim = claims.claim(&offer(), &fixture.journal).unwrap().unwrap();

        assert_eq!(claim.token, "job's");
        let ids = fixture.ids();
        assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
        assert!(claims.unanswered_offer(run()).is_none());
    }

    #[test]
    fn the_next_process_retries_an_unanswered_claim_with_the_same_id() {
        let fixture = Fixture::new(vec![Reply::dropped(), granted()]);
        let large = DiscoveredJob { profile: Some("large".into()), ..offer() };
        fixture.claims().claim(&large, &fixture.journal).unwrap_err();

        let claims = fixture.claims();
        let recovered = claims.recover(&fixture.journal).unwrap();
        assert_eq!((recovered.ended.len(), recovered.unanswered), (0, vec![run()]));
        let again = claims.unanswered_offer(run()).unwrap().unwrap();
        assert_eq!((again.run, again.profile.as_deref()), (run(), Some("large")));

        assert_eq!(claims.claim(&again, &fixture.journal).unwrap().unwrap().token, "job's");
        assert_eq!(fixture.ids()[0], fixture.ids()[1]);
    }

    #[test]
    fn a_denied_claim_leaves_no_record() {
        for status in [403, 404, 409] {
            let fixture = Fixture::new(vec![Reply::dropped(), Reply::refusal(status, "no")]);
            let claims = fixture.claims();
            claims.claim(&offer(), &fixture.journal).unwrap_err();
            let again = claims.unanswered_offer(run()).unwrap().unwrap();
            // 403 is an error; 404 and 409 mean that another runner has the job.
            let claimed = claims.claim(&again, &fixture.journal);
            assert!(
                claimed.is_err() == (status == 403) && claims.unanswered_offer(run()).is_none()
            );
            assert!(fixture.states().is_empty(), "{status}");
        }
    }

    #[test]
    fn a_success_without_a_token_counts_as_no_answer() {
        let empty = Reply::json(&json!({"runId": run(), "sandboxToken": ""}));
        let fixture = Fixture::new(vec![empty, granted()]);
        let claims = fixture.claims();
        claims.claim(&offer(), &fixture.journal).unwrap_err();
        assert_eq!(fixture.states(), ["claiming"]);
        assert!(claims.claim(&offer(), &fixture.journal).unwrap().is_some());
    }

    #[test]
    fn a_runner_whose_own_token_is_refused_keeps_its_claims() {
        let fixture = Fixture::new(vec![Reply::dropped(), Reply::refusal(401, "who?"), granted()]);
        fixture.claims().claim(&offer(), &fixture.journal).unwrap_err();

        let claims = fixture.claims();
        claims.recover(&fixture.journal).unwrap();
        claims.claim(&offer(), &fixture.journal).unwrap_err();
        assert!(claims.claim(&offer(), &fixture.journal).unwrap().is_some());
    }

    #[test]
    fn a_stopped_claim_is_left_to_the_next_start() {
        let fixture = Fixture::new(vec![granted()]);
        let claims = fixture.claims();
        claims.stop.cancel();
        claims.claim(&offer(), &fixture.journal).unwrap_err();
        assert_eq!(fixture.states(), ["claiming"]);
    }
}
