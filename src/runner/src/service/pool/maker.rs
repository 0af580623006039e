//! The thread `warm`: makes one VM after the other. It sleeps until it is told a profile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use sandbox::SandboxConfig;

use super::{Blank, START, Shared, kill};
use crate::error::Result;
use crate::service::config::Profile;

/// What the thread has.
pub(super) struct Maker {
    pub(super) shared: Arc<Shared>,
    pub(super) blank: Arc<Blank>,
    pub(super) profiles: BTreeMap<String, Profile>,
}

impl Maker {
    pub(super) fn run(&self, orders: &Receiver<String>) {
        for name in orders {
            let done = self.profiles.get(&name).map_or(Ok(()), |one| self.see_to(&name, one));
            match done {
                Ok(()) => self.shared.lock().succeeded(),
                Err(error) => {
                    let is_wanted = self.shared.lock().failed(Instant::now());
                    // What the pool's end has cut off is no failure.
                    let level = if is_wanted { log::Level::Warn } else { log::Level::Debug };
                    let error = error.chain();
                    log::log!(level, "no vm can be made ready; profile={name} error={error}");
                }
            }
            self.shared.look();
        }
    }

    /// Makes what VMs of the profile go on from, if that is missing; then a VM, likewise.
    fn see_to(&self, name: &str, profile: &Profile) -> Result<()> {
        let factory = &self.shared.factory;
        let cancellation = &self.shared.cancellation;
        self.in_hand(profile, |config| {
            factory.make_ready(config, cancellation, Instant::now() + START)
        })?;
        if !self.shared.lock().is_missing(name) {
            return Ok(());
        }
        let prepare = |config: &SandboxConfig| {
            let sandbox = factory.prepare(config, cancellation, Instant::now() + START)?;
            log::info!("a vm is warm; vm={} profile={name}", sandbox.id());
            let unwanted = self.shared.lock().put_warm(name, config.image.clone(), sandbox);
            unwanted.into_iter().for_each(kill);
            Ok(())
        };
        self.in_hand(profile, prepare)
    }

    /// Does something with a VM of its own, which is killed if the pool ends meanwhile.
    fn in_hand(
        &self,
        profile: &Profile,
        work: impl FnOnce(&SandboxConfig) -> sandbox::Result<()>,
    ) -> Result<()> {
        let config = (self.blank)(profile)?;
        if !self.shared.lock().take_in_hand(config.id) {
            return Ok(());
        }
        let done = work(&config);
        self.shared.lock().let_go(config.id);
        Ok(done?)
    }
}
