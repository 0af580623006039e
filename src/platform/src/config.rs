//! What can be said about a platform before it starts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How a platform is to be. [`Config::new`] has the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The state folder; everything is in `control` in it.
    pub state: PathBuf,
    /// Where runners and guests reach it; port 0 is any.
    pub listen: Vec<SocketAddr>,
    /// The base of URLs in execution contexts, which are used by guests and not by whoever claims:
    /// `http://192.168.241.1:8080`. Otherwise the base is how the claimer reached us; of claims in
    /// this process, the first address.
    pub guest_url: Option<String>,
    /// How long an attempt lives without any sign of life from its guest or its runner. Guests give
    /// one each minute.
    pub lease: Duration,
    /// How often a job is tried before a lost runner fails it.
    pub attempts: u32,
    /// How long a cancelled job may take until it counts as ended; runners have 90 s for it.
    pub cancel_grace: Duration,
    /// How long a job may take if its submission does not say.
    pub timeout: Duration,
    /// How long upload and download URLs are good.
    pub url_lifetime: Duration,
    /// How long a poll without work is held at most.
    pub poll_hold: Duration,
    /// The largest archive, in bytes.
    pub largest_archive: u64,
    /// How much one attempt may upload, all tries together, in bytes.
    pub largest_upload: u64,
    /// How much one attempt's events and telemetry may take together, in bytes.
    pub largest_record: u64,
    /// How long a client may take for the head of a request, and for its body, which has a second
    /// more for each MiB; uploads have more.
    pub patience: Duration,
    /// How long finished jobs are kept.
    pub retention: Duration,
    /// How long requests under way have when it stops.
    pub stop_grace: Duration,
}

impl Config {
    /// The defaults for a state folder, listening nowhere.
    #[must_use]
    pub fn new(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            listen: Vec::new(),
            guest_url: None,
            lease: Duration::from_secs(150),
            attempts: 3,
            cancel_grace: Duration::from_secs(120),
            timeout: Duration::from_secs(2 * 60 * 60),
            url_lifetime: Duration::from_secs(60 * 60),
            poll_hold: Duration::from_secs(25),
            largest_archive: 16 << 30,
            largest_upload: 64 << 30,
            largest_record: 1 << 30,
            patience: Duration::from_secs(30),
            retention: Duration::from_secs(30 * 24 * 60 * 60),
            stop_grace: Duration::from_secs(5),
        }
    }
}
