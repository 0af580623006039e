//! The thread `pool`: kills VMs that expire, are evicted or have ended. It sleeps until a command arrives, a pooled
//! VM ends, or the next VM expires.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, TryRecvError};

use super::{ReaperCommand, Shared, kill};
use crate::reuse::HeldSession;

/// The state of the thread.
pub(super) struct Reaper {
    shared: Arc<Shared>,
    commands: Receiver<ReaperCommand>,
    /// Profiles for the replenisher, one at a time.
    profiles: Sender<String>,
    changed: Box<dyn Fn() + Send>,
    last_reported: Vec<HeldSession>,
}

impl Reaper {
    pub(super) fn new(
        shared: Arc<Shared>,
        commands: Receiver<ReaperCommand>,
        profiles: Sender<String>,
        changed: Box<dyn Fn() + Send>,
    ) -> Self {
        Self { shared, commands, profiles, changed, last_reported: Vec::new() }
    }

    pub(super) fn run(mut self) {
        while self.handle_commands() {
            let now = Instant::now();
            let expired = self.shared.lock().take_expired(now);
            expired.into_iter().for_each(|sandbox| {
                log::info!("a pooled vm expired or ended; vm={}", sandbox.id());
                kill(sandbox);
            });
            if let Some(profile) = self.shared.lock().next_profile(now) {
                // Does not block: the replenisher is idle.
                let _ = self.profiles.send(profile);
            }
            self.report_sessions();
            self.sleep();
        }
        let all = self.shared.lock().clear();
        all.into_iter().for_each(kill);
    }

    /// Handles all queued commands. Returns false if the thread must end.
    fn handle_commands(&self) -> bool {
        loop {
            match self.commands.try_recv() {
                Ok(ReaperCommand::Wake) => {}
                Ok(ReaperCommand::Kill(sandbox)) => kill(sandbox),
                Ok(ReaperCommand::EvictOldest) => {
                    let oldest = self.shared.lock().take_oldest();
                    if let Some(sandbox) = oldest {
                        log::warn!("memory pressure: a parked vm is killed; vm={}", sandbox.id());
                        kill(sandbox);
                    }
                }
                Ok(ReaperCommand::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn report_sessions(&mut self) {
        let sessions = self.shared.lock().sessions();
        if sessions != self.last_reported {
            self.last_reported = sessions;
            (self.changed)();
        }
    }

    fn sleep(&self) {
        let (ends, deadline) = {
            let state = self.shared.lock();
            (state.ends(), state.next_deadline(Instant::now()))
        };
        let mut select = Select::new();
        select.recv(&self.commands);
        for end in &ends {
            select.recv(end);
        }
        let _ = match deadline {
            Some(at) => select.ready_deadline(at),
            None => Ok(select.ready()),
        };
    }
}
