//! The thread `push`: receives jobs and cancellations from an Ably channel as they are published.
//!
//! A push is only a hint: polls find jobs whose pushes were missed. Polls are immediate after the subscription
//! connects or reports a gap, slow while it is connected, and fast otherwise.

#[cfg(test)]
#[cfg(feature = "platform")]
mod tests;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use ably_subscriber::{Config, Event, Hosts, Message, Subscription, TokenError, TokenRequest};
use contract::RunId;
use crossbeam_channel::{Receiver, select};
use platform_client::PlatformClient;
use serde::Deserialize;
use serde_json::{Value, json};

use super::poll::ScheduledPoll;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::source::{DiscoveredJob, Discovery};

/// The most queued messages. More are reported as a gap, which triggers a poll.
const MAX_EVENTS: usize = 4096;

/// The delay of a poll for a job that was pushed to another runner.
const OTHER_RUNNER_DELAY: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PushedJob {
    run_id: RunId,
    profile: Option<String>,
    target_runner_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PushedCancel {
    run_id: RunId,
}

/// Subscribes to the jobs of a group, with tokens from the platform.
pub(super) fn subscribe(
    group: &str,
    hosts: &Hosts,
    platform: PlatformClient,
) -> Result<Subscription> {
    let body = json!({"group": group}).to_string();
    let fetch = move || token_request(&platform, body.as_bytes());
    let config = Config::new(format!("runner-group:{group}"), fetch)
        .hosts(hosts.clone())
        .max_events(MAX_EVENTS);
    ably_subscriber::subscribe(config).map_err(|source| Error::Push { source })
}

fn token_request(
    platform: &PlatformClient,
    body: &[u8],
) -> std::result::Result<TokenRequest, TokenError> {
    match platform.attempt::<Value>("/api/runners/realtime/token", body) {
        Ok(request) => TokenRequest::from_json(request.to_string().as_bytes()),
        Err(error) if error.is_refusal() => Err(TokenError::Refused { source: Box::new(error) }),
        Err(error) => Err(TokenError::Unavailable { source: Box::new(error) }),
    }
}

impl Shared {
    /// The thread. It ends with the subscription, or when `stopped` is disconnected.
    pub(super) fn run_push(&self, subscription: Subscription, stopped: &Receiver<Infallible>) {
        loop {
            select! {
                recv(subscription.receiver()) -> event => match event {
                    Ok(event) => self.handle_event(event),
                    Err(_) => break,
                },
                recv(stopped) -> _ => break,
            }
        }
        self.lock().is_subscribed = false;
        if let Err(error) = subscription.close() {
            log::error!("cannot close the subscription; error={error}");
        }
    }

    fn handle_event(&self, event: Event) {
        match event {
            Event::Message(message) => return self.handle_message(&message),
            Event::Connected => {
                log::info!("subscribed to pushes; group={}", self.group);
                self.lock().is_subscribed = true;
            }
            Event::Gap(gap) => {
                log::debug!("pushes may have been missed, polling; reason={:?}", gap.to_string())
            }
            Event::Disconnected { reason } => {
                log::warn!("pushes are disconnected, polling for jobs; reason={reason:?}");
                self.lock().is_subscribed = false;
            }
            Event::Failed(failure) => {
                let reason = failure.to_string();
                log::warn!("pushes have failed, polling for jobs; reason={reason:?}");
                self.lock().is_subscribed = false;
            }
            _ => return,
        }
        self.schedule(ScheduledPoll::now());
    }

    fn handle_message(&self, message: &Message) {
        match message.name.as_deref() {
            Some("job") => match message.data.parse::<PushedJob>() {
                Ok(job) => self.handle_job(job),
                Err(error) => {
                    log::warn!("a pushed job is invalid; error={error}");
                    self.schedule(ScheduledPoll::now());
                }
            },
            Some("cancel") => match message.data.parse::<PushedCancel>() {
                Ok(cancel) => self.push_update(None, vec![cancel.run_id], Instant::now()),
                Err(error) => log::warn!("a pushed cancellation is invalid; error={error}"),
            },
            name => log::debug!("ignoring a message of an unknown type; name={name:?}"),
        }
    }

    fn handle_job(&self, job: PushedJob) {
        let own_id = self.runner.id.to_string();
        if job.target_runner_id.is_some_and(|target| target != own_id) {
            self.schedule(ScheduledPoll::deferred(OTHER_RUNNER_DELAY));
            return;
        }
        log::debug!("job pushed; run={}", job.run_id);
        let discovered_at = Instant::now();
        let (run, profile) = (job.run_id, job.profile);
        let offer = DiscoveredJob {
            run,
            profile,
            reuse_key: None,
            discovery: Discovery::Pushed,
            discovered_at,
        };
        self.push_update(Some(offer), Vec::new(), discovered_at);
        self.schedule(ScheduledPoll::now());
    }
}
