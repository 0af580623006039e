//! The configuration of a subscription.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::TokenError;
use crate::host::Hosts;
use crate::token_request::TokenRequest;

type Fetch = dyn Fn() -> Result<TokenRequest, TokenError> + Send + Sync;

/// A year.
const MAX_TIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// What to subscribe to, and how.
#[derive(Clone)]
pub struct Config {
    pub(crate) channel: String,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) fetch: Arc<Fetch>,
    pub(crate) hosts: Hosts,
    pub(crate) max_events: usize,
    pub(crate) max_frame_size: usize,
    pub(crate) timing: Timing,
}

/// Time-outs and intervals. Only tests need other than the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Timing {
    /// The time-out of connecting, handshakes and the first answer, for each host. 10 s.
    pub connect: Duration,
    /// The time-out of attaching the channel. 30 s.
    pub attach: Duration,
    /// The silence beyond the server's announced interval after which a connection is dead. 10 s.
    pub grace: Duration,
    /// The first wait between attempts. 1 s.
    pub first_wait: Duration,
    /// Waits double up to this. 15 s.
    pub longest_wait: Duration,
    /// The wait before a channel that the server detached is attached again. 15 s.
    pub detached_wait: Duration,
    /// How long before a token's end it is renewed. 300 s; half of the life of one with a shorter one.
    pub renew_before: Duration,
}

impl Config {
    /// A subscription to `channel`. `fetch` gets a token request whenever a token is needed. It may block: it
    /// runs on a background thread, rarely on two at once. [`Subscription::close`](crate::Subscription::close)
    /// waits 5 s for it.
    pub fn new(
        channel: impl Into<String>,
        fetch: impl Fn() -> Result<TokenRequest, TokenError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            channel: channel.into(),
            params: Vec::new(),
            fetch: Arc::new(fetch),
            hosts: Hosts::default(),
            max_events: 256,
            max_frame_size: 1 << 20,
            timing: Timing::default(),
        }
    }

    /// A parameter of the channel, such as `rewind`.
    pub fn param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((name.into(), value.into()));
        self
    }

    /// Sets other servers than Ably's own.
    pub fn hosts(mut self, hosts: Hosts) -> Self {
        self.hosts = hosts;
        self
    }

    /// The most undelivered events; 256 by default. When the queue is full, messages are dropped and a
    /// [`Gap`](crate::Event::Gap) is reported.
    pub fn max_events(mut self, most: usize) -> Self {
        self.max_events = most;
        self
    }

    /// The largest frame in bytes; 1 MiB by default. With [`Config::max_events`] it bounds memory.
    pub fn max_frame_size(mut self, most: usize) -> Self {
        self.max_frame_size = most;
        self
    }

    /// Sets the time-outs and intervals, each at most a year.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing.within_reason();
        self
    }
}

impl Timing {
    /// Bounds all times, so that no sum overflows and there is a pause between retries.
    fn within_reason(self) -> Self {
        let at_most = |time: Duration| time.min(MAX_TIME);
        Self {
            connect: at_most(self.connect),
            attach: at_most(self.attach),
            grace: at_most(self.grace),
            first_wait: at_most(self.first_wait).max(Duration::from_millis(1)),
            longest_wait: at_most(self.longest_wait),
            detached_wait: at_most(self.detached_wait),
            renew_before: at_most(self.renew_before),
        }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            attach: Duration::from_secs(30),
            grace: Duration::from_secs(10),
            first_wait: Duration::from_secs(1),
            longest_wait: Duration::from_secs(15),
            detached_wait: Duration::from_secs(15),
            renew_before: Duration::from_secs(300),
        }
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("channel", &self.channel)
            .field("params", &self.params)
            .field("hosts", &self.hosts)
            .field("max_events", &self.max_events)
            .field("max_frame_size", &self.max_frame_size)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}
