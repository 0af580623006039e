//! What a subscription is made of.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error::TokenError;
use crate::host::Hosts;
use crate::token::TokenRequest;

type Fetch = dyn Fn() -> Result<TokenRequest, TokenError> + Send + Sync;

/// A year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// What to subscribe to, and how.
#[derive(Clone)]
pub struct Config {
    pub(crate) channel: String,
    pub(crate) params: Vec<(String, String)>,
    pub(crate) fetch: Arc<Fetch>,
    pub(crate) hosts: Hosts,
    pub(crate) most_events: usize,
    pub(crate) largest_frame: usize,
    pub(crate) timing: Timing,
}

/// How long things may take. The defaults are right but for tests.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Timing {
    /// Connecting, shaking hands and being answered, for each host. 10 s.
    pub connect: Duration,
    /// Attaching the channel. 30 s.
    pub attach: Duration,
    /// Silence beyond what the server announced, until a connection counts as dead. 10 s.
    pub grace: Duration,
    /// The first wait between attempts. 1 s.
    pub first_wait: Duration,
    /// Waits double up to this. 15 s.
    pub longest_wait: Duration,
    /// How long to leave a channel alone that the server does not want to attach. 15 s.
    pub detached_wait: Duration,
    /// How long before a token's end it is renewed. 300 s; half of the life of one with a shorter one.
    pub renew_before: Duration,
}

impl Config {
    /// A subscription to `channel`. `fetch` gets a token request whenever a token is needed. It may wait,
    /// as it is called by a thread of its own, and seldom by two at once; it should end by itself,
    /// since [`Subscription::close`](crate::Subscription::close) waits 5 s for it and then leaves it.
    pub fn new(
        channel: impl Into<String>,
        fetch: impl Fn() -> Result<TokenRequest, TokenError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            channel: channel.into(),
            params: Vec::new(),
            fetch: Arc::new(fetch),
            hosts: Hosts::default(),
            most_events: 256,
            largest_frame: 1 << 20,
            timing: Timing::default(),
        }
    }

    /// A parameter of the channel, such as `rewind`.
    pub fn param(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.params.push((name.into(), value.into()));
        self
    }

    /// Other servers than Ably's usual ones.
    pub fn hosts(mut self, hosts: Hosts) -> Self {
        self.hosts = hosts;
        self
    }

    /// How many events wait to be taken, at most; 256 unless said. If there are more, messages are
    /// dropped, and a [`Gap`](crate::Event::Gap) says so.
    pub fn most_events(mut self, most: usize) -> Self {
        self.most_events = most;
        self
    }

    /// How many bytes a frame has, at most; 1 MiB unless said. With [`Config::most_events`] it bounds memory.
    pub fn largest_frame(mut self, most: usize) -> Self {
        self.largest_frame = most;
        self
    }

    /// Other times than the usual ones. What is longer than a year is a year.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing.within_reason();
        self
    }
}

impl Timing {
    /// So that no sum overflows, and nobody tries again without any pause.
    fn within_reason(self) -> Self {
        let at_most = |time: Duration| time.min(LONGEST);
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
            .field("most_events", &self.most_events)
            .field("largest_frame", &self.largest_frame)
            .field("timing", &self.timing)
            .finish_non_exhaustive()
    }
}
