//! The sources of jobs that a configuration names.

use std::path::Path;
use std::sync::Arc;

use crate::config::Config;
use crate::error::Result;
use crate::source::Source;
use crate::source::api::Api;
#[cfg(feature = "platform")]
use crate::source::local::Local;

/// Where the service takes jobs from.
pub struct JobSource(pub(crate) Arc<dyn Source>);

impl JobSource {
    /// The platform of `[api]`.
    pub fn remote(state_dir: &Path, config: &Config) -> Result<Self> {
        Ok(Self(Arc::new(Api::start(state_dir, config)?)))
    }

    /// The embedded platform, which this starts in the state folder.
    #[cfg(feature = "platform")]
    pub fn embedded(state_dir: &Path, config: &Config) -> Result<Self> {
        Ok(Self(Arc::new(Local::start(state_dir, &config.local, &config.group)?)))
    }

    /// The platform's URLs.
    pub fn url(&self) -> String {
        self.0.access().addresses.names()
    }
}
