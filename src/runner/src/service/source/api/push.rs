//! The thread `push`: hears of jobs and cancellations as they are published, so that they wait for no
//! poll.
//!
//! A push is a hint. What was missed, a poll finds: at once when the subscription is connected (again) or
//! has a gap, slowly while it is, and fast while it is not.

#[cfg(test)]
#[cfg(feature = "platform")]
mod tests;

use std::convert::Infallible;
use std::time::{Duration, Instant};

use ably_subscriber::{Config, Event, Hosts, Message, Subscription, TokenError, TokenRequest};
use crossbeam_channel::{Receiver, select};
use guest_common::Platform;
use serde::Deserialize;
use serde_json::{Value, json};

use super::poll::Due;
use super::shared::Shared;
use crate::error::{Error, Result};
use crate::service::context::RunId;
use crate::service::source::{Found, Offer};

/// How many messages wait to be heard. A burst of more is a gap, which a poll makes up for.
const MOST_EVENTS: usize = 4096;

/// How long a job is left to the runner that it was pushed to.
const NOT_OURS: Duration = Duration::from_secs(2);

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

/// Subscribes to the jobs of a group, with tokens that the platform has issued.
pub(super) fn subscribe(group: &str, hosts: &Hosts, platform: Platform) -> Result<Subscription> {
    let body = json!({"group": group}).to_string();
    let fetch = move || token_request(&platform, body.as_bytes());
    let config = Config::new(format!("runner-group:{group}"), fetch)
        .hosts(hosts.clone())
        .max_events(MOST_EVENTS);
    ably_subscriber::subscribe(config).map_err(|source| Error::Push { source })
}

fn token_request(
    platform: &Platform,
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
    pub(super) fn listen(&self, subscription: Subscription, stopped: &Receiver<Infallible>) {
        loop {
            select! {
                recv(subscription.receiver()) -> event => match event {
                    Ok(event) => self.hear(event),
                    Err(_) => break,
                },
                recv(stopped) -> _ => break,
            }
        }
        self.lock().is_pushed = false;
        if let Err(error) = subscription.close() {
            log::error!("a subscription did not end well; error={error}");
        }
    }

    fn hear(&self, event: Event) {
        match event {
            Event::Message(message) => return self.hear_message(&message),
            Event::Connected => {
                log::info!("jobs are pushed; group={}", self.group);
                self.lock().is_pushed = true;
            }
            Event::Gap(gap) => log::debug!("pushes may be lost; reason={:?}", gap.to_string()),
            Event::Disconnected { reason } => {
                log::warn!("jobs are polled for, as they are not pushed now; reason={reason:?}");
                self.lock().is_pushed = false;
            }
            Event::Failed(failure) => {
                let reason = failure.to_string();
                log::warn!("jobs are polled for, as they cannot be pushed; reason={reason:?}");
                self.lock().is_pushed = false;
            }
            _ => return,
        }
        self.schedule(Due::now());
    }

    fn hear_message(&self, message: &Message) {
        match message.name.as_deref() {
            Some("job") => match message.data.parse::<PushedJob>() {
                Ok(job) => self.hear_job(job),
                Err(error) => {
                    log::warn!("a job that was pushed makes no sense; error={error}");
                    self.schedule(Due::now());
                }
            },
            Some("cancel") => match message.data.parse::<PushedCancel>() {
                Ok(cancel) => self.put_down(None, vec![cancel.run_id], Instant::now()),
                Err(error) => log::warn!("a cancellation makes no sense; error={error}"),
            },
            name => log::debug!("a message is not for runners; name={name:?}"),
        }
    }

    fn hear_job(&self, job: PushedJob) {
        let us = self.runner.id.to_string();
        if job.target_runner_id.is_some_and(|target| target != us) {
            self.schedule(Due::deferred(NOT_OURS));
            return;
        }
        log::debug!("a job was pushed; run={}", job.run_id);
        let at = Instant::now();
        let (run, profile) = (job.run_id, job.profile);
        let offer = Offer { run, profile, reuse_key: None, found: Found::Pushed, at };
        self.put_down(Some(offer), Vec::new(), at);
        self.schedule(Due::now());
    }
}
