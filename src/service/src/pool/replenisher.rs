//! The thread `warm`: starts warm VMs, one after the other. It sleeps until the thread `pool` sends it a profile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use sandbox::SandboxConfig;

use super::{BaseConfig, START_TIMEOUT, Shared, kill};
use crate::config::Profile;
use crate::error::Result;

/// The state of the thread.
pub(super) struct Replenisher {
    pub(super) shared: Arc<Shared>,
    pub(super) base_config: Arc<BaseConfig>,
    pub(super) profiles: BTreeMap<String, Profile>,
}

impl Replenisher {
    pub(super) fn run(&self, profiles: &Receiver<String>) {
        for name in profiles {
            let result =
                self.profiles.get(&name).map_or(Ok(()), |profile| self.replenish(&name, profile));
            match result {
                Ok(()) => self.shared.lock().succeeded(),
                Err(error) => {
                    let is_open = self.shared.lock().failed(Instant::now());
                    // Closing the pool cancels a start: that is no failure.
                    let level = if is_open { log::Level::Warn } else { log::Level::Debug };
                    let error = error.chain();
                    log::log!(level, "cannot start a warm vm; profile={name} error={error}");
                }
            }
            self.shared.wake_reaper();
        }
    }

    /// Makes the snapshot of a profile if it is missing, then a warm VM if one is missing.
    fn replenish(&self, name: &str, profile: &Profile) -> Result<()> {
        let factory = &self.shared.factory;
        let cancellation = &self.shared.cancellation;
        self.with_new_vm(profile, |config| {
            factory.make_ready(config, cancellation, Instant::now() + START_TIMEOUT)
        })?;
        if !self.shared.lock().is_missing(name) {
            return Ok(());
        }
        let prepare = |config: &SandboxConfig| {
            let sandbox = factory.prepare(config, cancellation, Instant::now() + START_TIMEOUT)?;
            log::info!("a vm is warm; vm={} profile={name}", sandbox.id());
            let surplus = self.shared.lock().put_warm(name, config.image.clone(), sandbox);
            surplus.into_iter().for_each(kill);
            Ok(())
        };
        self.with_new_vm(profile, prepare)
    }

    /// Runs `work` for a new VM, which is killed if the pool is closed meanwhile.
    fn with_new_vm(
        &self,
        profile: &Profile,
        work: impl FnOnce(&SandboxConfig) -> sandbox::Result<()>,
    ) -> Result<()> {
        let config = (self.base_config)(profile)?;
        if !self.shared.lock().begin_work(config.id) {
            return Ok(());
        }
        let result = work(&config);
        self.shared.lock().finish_work(config.id);
        Ok(result?)
    }
}
