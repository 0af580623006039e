//! The service with a scripted source.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use guest_test::{Reply, Server};
use sandbox::fake::Manner;
use serde_json::json;

use super::{Fixture, offer, waiting};
use crate::error::Result;
use crate::journal::Journal;
use crate::journal::tests::run;
use crate::source::{
    CancelRequest, Claim, Demand, DiscoveredJob, PlatformAccess, RecoveredJobs, RunnerStatus,
    Source, SourceKind, SourceUpdate,
};
use contract::RunId;

/// A source with queued updates, which grants all claims and accepts all outcomes.
struct ScriptedSource {
    _platform: Server,
    access: PlatformAccess,
    notifier: Sender<()>,
    notifications: Receiver<()>,
    updates: Mutex<VecDeque<SourceUpdate>>,
    calls_tx: Sender<()>,
    /// The calls of `next_update`.
    calls: Receiver<()>,
}

impl ScriptedSource {
    fn new() -> Arc<Self> {
        let platform = Server::start(|_| Reply::json(&json!({"success": true})));
        let url = platform.url();
        let access = PlatformAccess::at(&url, &url);
        let ((notifier, notifications), (calls_tx, calls)) = (bounded(1), unbounded());
        Arc::new(Self {
            _platform: platform,
            access,
            notifier,
            notifications,
            updates: Mutex::default(),
            calls_tx,
            calls,
        })
    }

    /// Queues an update and waits until the service has handled it.
    fn publish(&self, update: SourceUpdate) {
        self.updates.lock().unwrap().push_back(update);
        while !self.updates.lock().unwrap().is_empty() {
            self.wait_for_call();
        }
        // The service calls again only after it has handled the update.
        self.calls.try_iter().for_each(drop);
        self.wait_for_call();
    }

    fn wait_for_call(&self) {
        let _ = self.notifier.try_send(());
        self.calls.recv().unwrap();
    }
}

impl Source for ScriptedSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Api
    }

    fn notifications(&self) -> &Receiver<()> {
        &self.notifications
    }

    fn next_update(&self, _demand: &Demand) -> Result<SourceUpdate> {
        let _ = self.calls_tx.send(());
        Ok(self.updates.lock().unwrap().pop_front().unwrap_or_default())
    }

    fn claim(&self, offer: &DiscoveredJob, _journal: &Journal) -> Result<Option<Claim>> {
        let (token, agent) = ("t", "claude-code");
        let context = json!({
            "runId": offer.run, "sandboxToken": token, "prompt": "wait", "cliAgentType": agent,
        });
        Ok(Some(Claim::of(context, None, None)))
    }

    fn reoffer(&self, _run: RunId) -> bool {
        false
    }

    fn report_status(&self, _status: RunnerStatus) {}

    fn access(&self) -> &PlatformAccess {
        &self.access
    }

    fn recover(&self, _journal: &Journal) -> Result<RecoveredJobs> {
        Ok(RecoveredJobs::default())
    }

    fn stop(&self) {}
}

fn cancelled(requested_at: Instant) -> SourceUpdate {
    SourceUpdate { offer: None, cancelled: vec![CancelRequest { run: run(), requested_at }] }
}

#[test]
fn a_cancellation_from_before_a_claim_does_not_apply_to_it() {
    let mut fixture = Fixture::new();
    fixture.config.cancel_grace = Duration::from_secs(60);
    let (factory, started) = waiting(Manner::Deaf);
    let source = ScriptedSource::new();
    let service = fixture.start_with(Arc::clone(&source) as Arc<dyn Source>, &factory);
    let before = Instant::now();
    source.publish(SourceUpdate { offer: Some(offer(run())), cancelled: Vec::new() });
    started.recv().unwrap();

    source.publish(cancelled(before));
    assert!(factory.record().signals.is_empty());
    source.publish(cancelled(Instant::now()));
    assert_eq!(factory.record().signals.len(), 1);

    service.fast_shutdown();
}
