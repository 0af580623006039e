//! The service with a source that follows a script.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use guest_test::{Reply, Server};
use sandbox::fake::Manner;
use serde_json::json;

use super::{Bench, held, offer};
use crate::error::Result;
use crate::service::context::RunId;
use crate::service::journal::Journal;
use crate::service::journal::tests::run;
use crate::service::source::{
    Access, Cancelled, Claim, Demand, Kind, Left, News, Offer, Presence, Source,
};

/// Its claims are granted, outcomes taken; what it has to say is put into it.
struct Scripted {
    _platform: Server,
    access: Access,
    bell: Sender<()>,
    rings: Receiver<()>,
    news: Mutex<VecDeque<News>>,
    tell_looks: Sender<()>,
    looks: Receiver<()>,
}

impl Scripted {
    fn new() -> Arc<Self> {
        let platform = Server::start(|_| Reply::json(&json!({"success": true})));
        let url = platform.url();
        let access = Access {
            guest_url: url.clone(),
            url,
            service: None,
            bypass: None,
            reachable: Vec::new(),
        };
        let ((bell, rings), (tell_looks, looks)) = (bounded(1), unbounded());
        Arc::new(Self {
            _platform: platform,
            access,
            bell,
            rings,
            news: Mutex::default(),
            tell_looks,
            looks,
        })
    }

    /// Says something, and returns when it was heard and obeyed.
    fn say(&self, news: News) {
        self.news.lock().unwrap().push_back(news);
        while !self.news.lock().unwrap().is_empty() {
            self.wait_for_look();
        }
        // Whoever looks again has done with what was before.
        self.looks.try_iter().for_each(drop);
        self.wait_for_look();
    }

    fn wait_for_look(&self) {
        let _ = self.bell.try_send(());
        self.looks.recv().unwrap();
    }
}

impl Source for Scripted {
    fn kind(&self) -> Kind {
        Kind::Api
    }

    fn rings(&self) -> &Receiver<()> {
        &self.rings
    }

    fn look(&self, _demand: &Demand) -> Result<News> {
        let _ = self.tell_looks.send(());
        Ok(self.news.lock().unwrap().pop_front().unwrap_or_default())
    }

    fn claim(&self, offer: &Offer, _journal: &Journal) -> Result<Option<Claim>> {
        let (token, agent) = ("t", "claude-code");
        let context = json!({
            "runId": offer.run, "sandboxToken": token, "prompt": "wait", "cliAgentType": agent,
        });
        Ok(Some(Claim::of(context, None, None)))
    }

    fn offer_again(&self, _run: RunId) -> bool {
        false
    }

    fn tell(&self, _presence: Presence) {}

    fn access(&self) -> &Access {
        &self.access
    }

    fn recover(&self, _journal: &Journal) -> Result<Left> {
        Ok(Left::default())
    }

    fn stop(&self) {}
}

fn cancelled(asked: Instant) -> News {
    News { offer: None, cancelled: vec![Cancelled { run: run(), asked }] }
}

#[test]
fn a_cancellation_from_before_a_claim_is_not_for_it() {
    let mut bench = Bench::new();
    bench.config.cancel_grace = Duration::from_secs(60);
    let (factory, begun) = held(Manner::Deaf);
    let source = Scripted::new();
    let serving = bench.start_with(Arc::clone(&source) as Arc<dyn Source>, &factory);
    let before = Instant::now();
    source.say(News { offer: Some(offer(run())), cancelled: Vec::new() });
    begun.recv().unwrap();

    source.say(cancelled(before));
    assert!(factory.record().signals.is_empty());
    source.say(cancelled(Instant::now()));
    assert_eq!(factory.record().signals.len(), 1);

    serving.hard_stop();
}
