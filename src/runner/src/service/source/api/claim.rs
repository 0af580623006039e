//! Claims: whatever becomes of an answer on its way, each job is claimed once and told of once.
//!
//! ```text
//!  the request's id is in the journal ──▶ asked ──▶ granted ──▶ the job's thread
//!                                          │ ▲ offered again, also by the next process: the same id
//!                                no answer ▼ │
//!                                        open ─────▶ 404, 409, 403, … : the record is removed
//! ```
//!
//! A job whose claim had no answer never ran, so it is not failed: whoever has room for it claims it as
//! the same.
//!
//! INVARIANT: one thread at most asks for a job at any time, always with the id in the journal.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use guest_common::{Platform, Retry, Stop, epoch_ms};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::service::context::RunId;
use crate::service::journal::{Completion, Journal, Record, State};
use crate::service::source::{Claim, Found, Kind, Left, Offer, token_of};

/// Why a job fails whose runner was killed.
const DIED: &str = "the runner died";

/// The claims of one platform.
pub(super) struct Claims {
    platform: Platform,
    stop: Stop,
    /// How long one is tried before its job's thread gives it up.
    patience: Duration,
    /// Those without an answer.
    open: Mutex<HashMap<RunId, Open>>,
}

/// A claim without an answer.
struct Open {
    /// The request's id; none while somebody asks.
    request: Option<String>,
    /// The offer's.
    profile: Option<String>,
}

/// What the platform says of a job that is ours.
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

/// What came of a request.
enum Answer {
    Granted(Granted),
    /// Somebody else has it, or it is not for us.
    Denied(guest_common::Error),
    None(guest_common::Error),
}

impl Claims {
    pub(super) fn new(platform: Platform, stop: Stop, patience: Duration) -> Self {
        Self { platform, stop, patience, open: Mutex::default() }
    }

    /// See [`Source::claim`](crate::service::Source::claim).
    pub(super) fn claim(&self, offer: &Offer, journal: &Journal) -> Result<Option<Claim>> {
        let run = offer.run;
        let known = match self.lock().entry(run) {
            Entry::Occupied(entry) => match entry.into_mut().request.take() {
                Some(request) => Some(request),
                // Somebody asks just now.
                None => return Ok(None),
            },
            Entry::Vacant(entry) => {
                entry.insert(Open { request: None, profile: offer.profile.clone() });
                None
            }
        };
        let request = match known.map_or_else(|| begin(offer, journal), Ok) {
            Ok(request) => request,
            Err(error) => {
                self.lock().remove(&run);
                return Err(error);
            }
        };
        let retry = Retry::until(Instant::now() + self.patience);
        match self.ask(offer, &request, &retry) {
            Answer::Granted(Granted(context)) => {
                self.lock().remove(&run);
                Ok(Some(Claim::of(context, None, None)))
            }
            Answer::Denied(error) => {
                self.close(run, journal);
                match error.status() {
                    Some(404 | 409) => Ok(None),
                    _ => Err(Error::Api { source: error }),
                }
            }
            Answer::None(source) => {
                self.put_back(run, request);
                Err(Error::Api { source })
            }
        }
    }

    /// What a job was offered as whose claim has no answer yet. Twofold none: the claim has one; or
    /// somebody asks for it just now.
    pub(super) fn open_offer(&self, run: RunId) -> Option<Option<Offer>> {
        let open = self.lock();
        let open = open.get(&run)?;
        let (profile, found) = (open.profile.clone(), Found::Polled);
        let offer = Offer { run, profile, reuse_key: None, found, at: Instant::now() };
        Some(open.request.as_ref().map(|_| offer))
    }

    /// A job whose runner died has failed: nobody else will say so. One whose claim had no answer has
    /// not begun.
    pub(super) fn recover(&self, journal: &Journal) -> Result<Left> {
        let mut left = Left::default();
        for record in journal.read()?.into_iter().filter(|one| one.source == Kind::Api) {
            let run = record.run;
            match record.state {
                State::Ended { .. } => left.ended.push(record),
                State::Claimed { token } => {
                    let record = ended(run, token);
                    journal.write(&record)?;
                    left.ended.push(record);
                }
                State::Claiming { request, profile } => {
                    self.lock().insert(run, Open { request: Some(request), profile });
                    left.unanswered.push(run);
                }
            }
        }
        Ok(left)
    }

    fn ask(&self, offer: &Offer, request: &str, retry: &Retry) -> Answer {
        let path = format!("/api/runners/jobs/{}/claim", offer.run);
        let source = match offer.found {
            Found::Polled => "poll",
            Found::Pushed => "ably",
        };
        let waited = u64::try_from(offer.at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let telemetry = json!({"discoverySource": source, "jobDiscoveredToClaimRequestMs": waited});
        let body = json!({"capabilities": [], "telemetry": telemetry}).to_string();
        let attempt = || self.platform.attempt_as(request, &path, body.as_bytes());
        match retry.run(&self.stop, attempt) {
            Ok(granted) => Answer::Granted(granted),
            // A token that is not taken says nothing of the job.
            Err(error) if error.status().is_some_and(|status| status != 401) => {
                if error.is_retriable() { Answer::None(error) } else { Answer::Denied(error) }
            }
            Err(error) => Answer::None(error),
        }
    }

    fn put_back(&self, run: RunId, request: String) {
        if let Some(open) = self.lock().get_mut(&run) {
            open.request = Some(request);
        }
    }

    /// The platform has said that it is not ours.
    fn close(&self, run: RunId, journal: &Journal) {
        // In this order: nobody may write another record in between.
        journal.remove(run);
        self.lock().remove(&run);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RunId, Open>> {
        // Nothing panics while it has the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the id of a request into the journal.
fn begin(offer: &Offer, journal: &Journal) -> Result<String> {
    let request = guest_common::random_uuid();
    let state = State::Claiming { request: request.clone(), profile: offer.profile.clone() };
    journal.write(&Record { run: offer.run, attempt: None, source: Kind::Api, state })?;
    Ok(request)
}

fn ended(run: RunId, token: String) -> Record {
    let completion = Completion::failed(DIED.to_owned());
    let state = State::Ended { token, at_ms: epoch_ms(), completion };
    Record { run, attempt: None, source: Kind::Api, state }
}

#[cfg(test)]
mod tests {
    use guest_common::{Identity, Kind as Caller, Limits};
    use guest_test::{Reply, Server};

    use super::*;
    use crate::service::journal::tests::run;

    /// Claims at a platform that answers so, the last answer for ever.
    struct Bench {
        state: tempfile::TempDir,
        journal: Journal,
        server: Server,
    }

    impl Bench {
        fn new(replies: Vec<Reply>) -> Self {
            let replies = Mutex::new(replies);
            let server = Server::start(move |_| {
                let mut replies = replies.lock().unwrap();
                if replies.len() > 1 { replies.remove(0) } else { replies[0].clone() }
            });
            let state = tempfile::tempdir().unwrap();
            let journal = Journal::open(state.path()).unwrap();
            Self { state, journal, server }
        }

        /// As a process that starts with what is in the journal, and does not wait.
        fn claims(&self) -> Claims {
            let token = "t".to_owned();
            let identity =
                Identity { url: self.server.url(), token, bypass: None, run_id: "r".into() };
            let time = Duration::from_secs(30);
            let limits = Limits { whole: Some(time), silence: time, redirects: 0 };
            let stop = Stop::new();
            let platform = Platform::of(Caller::Runner, &identity, limits, &stop).unwrap();
            Claims::new(platform, stop, Duration::ZERO)
        }

        fn states(&self) -> Vec<&'static str> {
            let records = Journal::open(self.state.path()).unwrap().read().unwrap();
            let state = |record: Record| match record.state {
                State::Claiming { .. } => "claiming",
                State::Claimed { .. } => "claimed",
                State::Ended { .. } => "ended",
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

    fn offer() -> Offer {
        Offer {
            run: run(),
            profile: None,
            reuse_key: None,
            found: Found::Polled,
            at: Instant::now(),
        }
    }

    fn granted() -> Reply {
        Reply::json(&json!({"runId": run(), "sandboxToken": "job's"}))
    }

    #[test]
    fn a_claim_without_an_answer_is_asked_for_again_as_the_same() {
        let bench = Bench::new(vec![Reply::dropped(), granted()]);
        let claims = bench.claims();
        claims.claim(&offer(), &bench.journal).unwrap_err();
        assert_eq!(bench.states(), ["claiming"]);

        let claim = claims.claim(&offer(), &bench.journal).unwrap().unwrap();

        assert_eq!(claim.token, "job's");
        let ids = bench.ids();
        assert_eq!((ids.len(), &ids[0]), (2, &ids[1]));
        assert!(claims.open_offer(run()).is_none());
    }

    #[test]
    fn a_claim_whose_answer_died_with_its_runner_is_made_by_the_next_as_the_same() {
        let bench = Bench::new(vec![Reply::dropped(), granted()]);
        let large = Offer { profile: Some("large".into()), ..offer() };
        bench.claims().claim(&large, &bench.journal).unwrap_err();

        let claims = bench.claims();
        let left = claims.recover(&bench.journal).unwrap();
        assert_eq!((left.ended.len(), left.unanswered), (0, vec![run()]));
        let again = claims.open_offer(run()).unwrap().unwrap();
        assert_eq!((again.run, again.profile.as_deref()), (run(), Some("large")));

        assert_eq!(claims.claim(&again, &bench.journal).unwrap().unwrap().token, "job's");
        assert_eq!(bench.ids()[0], bench.ids()[1]);
    }

    #[test]
    fn what_is_not_ours_leaves_nothing() {
        for status in [403, 404, 409] {
            let bench = Bench::new(vec![Reply::dropped(), Reply::refusal(status, "no")]);
            let claims = bench.claims();
            claims.claim(&offer(), &bench.journal).unwrap_err();
            let again = claims.open_offer(run()).unwrap().unwrap();
            // Who has it instead, or that nobody may, is the platform's to say.
            let claimed = claims.claim(&again, &bench.journal);
            assert!(claimed.is_err() == (status == 403) && claims.open_offer(run()).is_none());
            assert!(bench.states().is_empty(), "{status}");
        }
    }

    #[test]
    fn a_success_without_a_token_is_no_answer() {
        let empty = Reply::json(&json!({"runId": run(), "sandboxToken": ""}));
        let bench = Bench::new(vec![empty, granted()]);
        let claims = bench.claims();
        claims.claim(&offer(), &bench.journal).unwrap_err();
        assert_eq!(bench.states(), ["claiming"]);
        assert!(claims.claim(&offer(), &bench.journal).unwrap().is_some());
    }

    #[test]
    fn a_runner_whose_own_token_is_not_taken_forgets_no_claim() {
        let bench = Bench::new(vec![Reply::dropped(), Reply::refusal(401, "who?"), granted()]);
        bench.claims().claim(&offer(), &bench.journal).unwrap_err();

        let claims = bench.claims();
        claims.recover(&bench.journal).unwrap();
        claims.claim(&offer(), &bench.journal).unwrap_err();
        assert!(claims.claim(&offer(), &bench.journal).unwrap().is_some());
    }

    #[test]
    fn who_stops_leaves_it_to_the_next_start() {
        let bench = Bench::new(vec![granted()]);
        let claims = bench.claims();
        claims.stop.signal();
        claims.claim(&offer(), &bench.journal).unwrap_err();
        assert_eq!(bench.states(), ["claiming"]);
    }
}
